"""Options as users write them in Python."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepdist.errors import OptionsError
from tepdist.frontends.options import (
    PlanOptions,
    parse_size,
    read_constraints,
    read_mesh,
    read_options,
)
from tepdist.frontends.step_options import read_step_options
from tepdist.plans.types import Options
from tepdist.sharding import Mesh

axes = st.lists(st.sampled_from("abc"), max_size=2)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=3))
def test_every_way_to_write_a_mesh_gives_the_same(sizes):
    mesh = Mesh.of_shape(tuple(sizes))
    ways = [mesh, tuple(sizes), sizes, str(mesh), dict(mesh.axes)]
    ways += ["x".join(map(str, sizes))] if len(sizes) > 1 else []
    assert all(read_mesh(way) == mesh for way in ways)


@given(st.integers(1, 10**15))
def test_a_memory_limit_is_bytes_or_text(size):
    as_text = read_options({"memory_limit": f"{size} B"})
    assert as_text == read_options({"memory_limit": size})
    assert as_text.memory_limit_bytes == size
    assert parse_size(f"{size}KiB") == size * 1024


@given(st.dictionaries(st.text(min_size=1), st.lists(axes)))
def test_constraints_list_the_axes_of_each_dim(constraints):
    wanted = {
        pattern: tuple(tuple(dim) for dim in dims)
        for pattern, dims in constraints.items()
    }
    assert read_constraints(constraints) == wanted
    loose = {
        pattern: [dim if len(dim) > 1 else next(iter(dim), None) for dim in dims]
        for pattern, dims in constraints.items()
    }
    assert read_constraints(loose) == wanted


def test_what_is_left_out_is_left_to_the_search():
    assert read_options({}) == Options()
    assert (
        read_options(
            dict.fromkeys(PlanOptions.__annotations__) | {"level": "O2", "exact": True}
        )
        == Options()
    )


def test_a_static_argument_is_known_by_position_and_by_name():
    def step(state, mode, batch):
        raise AssertionError

    for given_options in ({"static_argnums": 1}, {"static_argnames": "mode"}):
        statics = read_step_options(step, given_options).call.statics
        assert statics.positions == {1}
        assert statics.names == {"mode"}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"lvel": "O1"}, "unknown option 'lvel'"),
        ({"level": "fast"}, "level 'fast' is none of O1, O2, O3"),
        ({"mesh": "4 by 2"}, "mesh '4 by 2' is not readable"),
        ({"mesh": 8}, "mesh 8 is not readable"),
        ({"mesh": (True, 2)}, "mesh (True, 2) is not readable"),
        ({"mesh": {"x": "two"}}, "mesh {'x': 'two'} is not readable"),
        ({"mesh": (2, 0)}, "mesh axis 'y' has size 0"),
        ({"memory_limit": "many"}, "size 'many' is not readable"),
        ({"memory_limit": -1}, "memory_limit=-1 is not a positive number"),
        ({"memory_limit": math.inf}, "memory_limit=inf is not a positive number"),
        ({"time_limit": 0}, "time_limit=0 is not a positive number"),
        ({"time_limit": "5"}, "time_limit='5' is not a positive number"),
        ({"exact": "no"}, "exact='no' is neither True nor False"),
        ({"num_stages": 1.5}, "num_stages=1.5 is not a positive integer"),
        ({"constraints": {"w": (1,)}}, "constraint 'w' is not a tuple of mesh axes"),
    ],
)
def test_a_wrong_option_is_named(options, problem):
    with pytest.raises(OptionsError) as error:
        read_options(options)
    assert problem in error.value.problem
    assert error.value.where in options
    assert error.value.hint
