"""A stated sharding leaves exactly the strategies that keep to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepdist.analysis.groups import build_groups
from tepdist.analysis.nodes import build_nodes
from tepdist.errors import ProgramError
from tepdist.program.extract import extract
from tepdist.program.graph import CONSTRAINT
from tepdist.program.pins import held_rule
from tepdist.program.reader import prepare
from tepdist.program.stated import Stated
from tepdist.search.strategies import sharding_of, strategy_space
from tepdist.sharding import Mesh

MESH = Mesh((("a", 2), ("b", 4), ("c", 1), ("d", 3)))
SHAPE = (24, 48, 1)


@st.composite
def shardings(draw) -> Stated:
    """Shardings of a tensor of this shape, axes in any order."""
    axes = draw(st.permutations(["a", "b", "d"]))
    cuts = sorted(draw(st.lists(st.integers(0, 3), min_size=2, max_size=2)))
    dims = (tuple(axes[: cuts[0]]), tuple(axes[cuts[0] : cuts[1]]), ())
    free = axes[cuts[1] :]
    is_open = tuple(draw(st.booleans()) for _ in SHAPE)
    whole = tuple(sorted(axis for axis in free if draw(st.booleans())))
    return Stated(MESH, dims, is_open, whole)


def written(stated: Stated) -> str:
    dims = [
        "{" + ", ".join([*(f'"{axis}"' for axis in axes), *["?"] * is_open]) + "}"
        for axes, is_open in zip(stated.dims, stated.is_open, strict=True)
    ]
    whole = ", ".join(f'"{axis}"' for axis in stated.whole)
    return f"<@mesh, [{', '.join(dims)}]" + (
        f", replicated={{{whole}}}>" if whole else ">"
    )


def program_of(stated: Stated):
    sizes = ", ".join(f'"{name}"={size}' for name, size in MESH.axes)
    type_ = f"tensor<{'x'.join(map(str, SHAPE))}xf32>"
    text = f"""
    module {{
      sdy.mesh @mesh = <[{sizes}]>
      func.func @main(%a: {type_}) -> {type_} {{
        %0 = sdy.sharding_constraint %a {written(stated)} : {type_}
        return %0 : {type_}
      }}
    }}"""
    return extract(prepare(text.encode()).bytecode(), "stated")


@given(shardings())
def test_each_strategy_keeps_to_what_is_stated(stated):
    program = program_of(stated)
    if not stated.says_something:
        assert not program.ops
        return
    (op,) = program.ops
    assert op.kind == CONSTRAINT
    assert op.rule == held_rule(SHAPE, stated)
    groups = build_groups(program, build_nodes(program, {}), {})
    (group, made), *_ = (
        (group, each)
        for group in groups
        for each in group.outputs
        if each.value == op.results[0]
    )
    space = strategy_space(group, MESH, scatters=True)
    lie = {sharding_of(strategy, made, MESH).dims for strategy in space.strategies}
    assert stated.dims in lie
    for dims in lie:
        for cut, wanted, is_open in zip(dims, stated.dims, stated.is_open, strict=True):
            assert cut[: len(wanted)] == wanted
            assert is_open or cut == wanted
        assert not {axis for cut in dims for axis in cut} & set(stated.whole)
    if not any(stated.is_open[:2]):
        assert lie == {stated.dims}


def test_axes_that_do_not_divide_a_dim_are_refused():
    stated = Stated(MESH, (("d",),), (False,), ())
    with pytest.raises(ProgramError, match="3 parts do not divide 8"):
        held_rule((8,), stated)
