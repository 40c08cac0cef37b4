"""Dataclasses as plain data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepdist.errors import PlanError
from tepdist.plans.codec import decode, encode
from tepdist.plans.types import Options
from tepdist.sharding import Mesh, Sharding


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    bytes_: int
    share: float | None


@dataclass(frozen=True)
class Outer:
    colour: Colour
    parts: tuple[Inner, ...]
    by_name: Mapping[str, float]
    flag: bool = True


inners = st.builds(
    Inner, st.integers(), st.none() | st.floats(allow_nan=False, allow_infinity=False)
)
outers = st.builds(
    Outer,
    st.sampled_from(Colour),
    st.lists(inners).map(tuple),
    st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
    st.booleans(),
)
meshes = st.lists(st.integers(1, 9), max_size=3).map(tuple).map(Mesh.of_shape)


@given(outers)
def test_decoding_what_was_encoded_gives_the_value(value: Outer) -> None:
    assert decode(Outer, json.loads(json.dumps(encode(value))), "outer") == value


@given(meshes)
def test_meshes_pass_both_ways(mesh: Mesh) -> None:
    assert decode(Mesh, encode(mesh), "mesh") == mesh


@given(st.none() | meshes, st.none() | st.integers(1, 2**60))
def test_options_pass_both_ways(mesh: Mesh | None, limit: int | None) -> None:
    options = Options(
        mesh=mesh, memory_limit_bytes=limit, constraints={"a": (("x",), ())}
    )
    assert decode(Options, encode(options), "options") == options


@pytest.mark.parametrize(
    ("kind", "data", "problem"),
    [
        (int, True, "'k' is bool True, not int"),
        (int, 1.0, "'k' is float 1.0, not int"),
        (str, None, "'k' is NoneType None, not str"),
        (Colour, "blue", "'k' is 'blue', not one of red"),
        (tuple[int, ...], [1, "2"], r"'k\[1\]' is str '2', not int"),
        (Inner, {"bytes": 1}, "'k.share' is missing"),
        (Mesh, {"axes": {"x": 0}}, "'k': mesh axis 'x' has size 0"),
        (Sharding, [["x"], ["x"]], "'k': sharding .* uses a mesh axis twice"),
    ],
)
def test_errors_name_the_key_and_what_is_wrong(
    kind: Any, data: Any, problem: str
) -> None:
    with pytest.raises(PlanError, match=problem):
        decode(kind, data, "k")


def test_an_integer_is_a_number_too() -> None:
    assert decode(float, 3, "k") == 3.0
