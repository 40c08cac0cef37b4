"""No plan moves more bytes than the best sharding known for that case, written by hand.

The hand-written one is a plain ``jax.jit`` of the same step with shardings stated on
its arguments and results, compiled for the same mesh. Both are counted in the
compiled program.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import DictKey, SequenceKey

from tepdist.lowering.compiled import bytes_by_kind

from .models import (
    Case,
    Transformer,
    assert_equals_one_device,
    conv_net,
    expert_layer,
    mlp,
    planned,
    tied,
)

P = PartitionSpec
Specs = Callable[[tuple[Any, ...]], PartitionSpec]


def by_hand(case: Case, mesh: str, specs: Specs, data: PartitionSpec) -> Counter[str]:
    """Bytes of the collectives of the hand-written program, by kind."""
    sizes = tuple(int(size) for size in mesh.split("x"))
    made = jax.make_mesh(
        sizes,
        ("x", "y")[: len(sizes)],
        axis_types=(jax.sharding.AxisType.Auto,) * len(sizes),
        devices=jax.devices()[: int(np.prod(sizes))],
    )

    def place(path, leaf):
        return NamedSharding(made, specs(path) if leaf.ndim else P())

    state = jax.tree_util.tree_map_with_path(place, case.state())
    batch = jax.tree.map(lambda _: NamedSharding(made, data), case.data(0))
    step = jax.jit(
        case.step,
        in_shardings=(state, batch),
        out_shardings=(state, NamedSharding(made, P())),
    )
    compiled = step.lower(case.state(), case.data(0)).compile()
    return Counter(bytes_by_kind(compiled.as_text()))


def sent(by_kind: Counter[str]) -> int:
    """Bytes that go over the wire, about: an all-reduce sends its payload twice."""
    return sum(by_kind.values()) + by_kind["all_reduce"]


def named(specs: Mapping[str, PartitionSpec]) -> Specs:
    """Parameters by their names; those without one are whole."""

    def find(path: tuple[Any, ...]) -> PartitionSpec:
        names = [key.key for key in path if isinstance(key, DictKey)]
        return specs.get(names[-1], P())

    return find


def columns_then_rows(axis: str) -> Specs:
    """Each second product of an MLP by rows, the others by columns."""

    def find(path: tuple[Any, ...]) -> PartitionSpec:
        layer = next(key.idx for key in reversed(path) if isinstance(key, SequenceKey))
        by_row = {"w": P(axis, None), "b": P()}
        by_column = {"w": P(None, axis), "b": P(axis)}
        return (by_row if layer % 2 else by_column)[path[-1].key]

    return find


def channels_out_then_in(axis: str) -> Specs:
    """The same of convolutions: each second one by its input channels."""

    def find(path: tuple[Any, ...]) -> PartitionSpec:
        layer = next(key.idx for key in reversed(path) if isinstance(key, SequenceKey))
        if layer % 2:
            return P(None, None, axis) if path[-1].key == "kernel" else P()
        return P(None, None, None, axis) if path[-1].key == "kernel" else P(axis)

    return find


def heads_and_columns(axis: str, *, dims: bool) -> Specs:
    """Megatron's: heads, and the wide dim of the feed-forward half."""
    return named(
        {
            "wqkv": P(None, None, axis, None),
            **dict.fromkeys(("wq", "wk", "wv", "w1"), P(None, axis)),
            "wo": P(axis, None, None) if dims else P(axis, None),
            "w2": P(axis, None),
        }
    )


@dataclass(frozen=True)
class Known:
    """A model, and its best known plan.

    Attributes:
        case: The model.
        mesh: As `Mesh.parse` reads it, axes x and y.
        specs: Of the parameters, by name; the optimizer's follow.
        data: Of the batch.
        sent: By the best plan known, as `sent` counts [B].
    """

    case: Case
    mesh: str
    specs: Specs
    data: PartitionSpec
    sent: int


KNOWN = {
    "mlp-data-tensor": Known(
        mlp(width=128, batch=128),
        "2x2",
        columns_then_rows("y"),
        P("x"),
        688136,
    ),
    "transformer-data-tensor": Known(
        Transformer(split="dims").case(batch=16, seq=16, hidden=64),
        "2x2",
        heads_and_columns("y", dims=True),
        P("x"),
        835592,
    ),
    "transformer-tensor-apart": Known(
        Transformer(fused=False).case(batch=8, seq=8, hidden=128),
        "4",
        heads_and_columns("x", dims=False),
        P(),
        458752,
    ),
    "tied-vocabulary": Known(
        tied(batch=8, seq=8, vocabulary=1024, hidden=64),
        "4",
        named({"table": P("x"), "w1": P(None, "x"), "w2": P("x")}),
        P(),
        132864,
    ),
    "tied-data": Known(
        tied(batch=64, seq=32, vocabulary=64, hidden=16),
        "4",
        named({}),
        P("x"),
        32776,
    ),
    "conv-data": Known(
        conv_net(batch=64, size=8, channels=8), "4", named({}), P("x"), 15176
    ),
    "conv-channels": Known(
        conv_net(batch=4, size=4, channels=128),
        "4",
        channels_out_then_in("x"),
        P(None, None, None, "x"),
        131080,
    ),
    "conv-rows": Known(
        conv_net(batch=1, size=64, channels=8),
        "4",
        named({}),
        P(None, "x"),
        35656,
    ),
    "experts": Known(
        expert_layer(batch=16, seq=16, hidden=32, experts=8, inner=256),
        "4",
        named({"w1": P("x"), "w2": P("x")}),
        P("x"),
        37392,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_no_more_is_sent_than_by_hand(name):
    known = KNOWN[name]
    traced, executable = planned(known.case, known.mesh)
    (text,) = executable.hlo_text()
    ours = Counter(bytes_by_kind(text))
    theirs = by_hand(known.case, known.mesh, known.specs, known.data)
    assert sent(ours) <= min(sent(theirs), known.sent)
    assert_equals_one_device(known.case, traced, executable)
