"""Strategies: what they cut divides, and dims made of several factors stay in order."""

from dataclasses import replace

import numpy as np
import pytest

from tepdist.analysis.groups import Group, GroupTensor, Member
from tepdist.search.strategies import sharding_of, strategy_space
from tepdist.sharding import Mesh, Sharding

MESHES = ("2", "3", "4", "2x2", "2x3", "4x2", "2x2x2")


def group(sizes, dims, *, reduction=(), blocked=(), inputs=()):
    """One tensor out, some in; each by the factors of its dims."""
    reduction = frozenset(reduction)
    return Group(
        sizes=tuple(sizes),
        reduction=reduction,
        blocked=frozenset(blocked),
        uneven=frozenset(),
        members=(Member(0, tuple(range(len(sizes))), reduced=False),),
        inputs=tuple(
            GroupTensor(value, given, reduced=False, member=0)
            for value, given in enumerate(inputs)
        ),
        outputs=(GroupTensor(-1, dims, reduced=bool(reduction), member=0),),
    )


PRODUCT = group(
    (12, 8, 24),
    ((0,), (2,)),
    reduction=(1,),
    inputs=(((0,), (1,)), ((1,), (2,))),
)
RESHAPE = group((4, 6), ((0, 1),), inputs=(((0,), (1,)),))


def tensors(grp):
    return (*grp.inputs, *grp.outputs)


@pytest.mark.parametrize("scatters", [False, True])
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("grp", [PRODUCT, RESHAPE], ids=["product", "reshape"])
def test_every_tensor_is_divided_by_every_strategy(grp, mesh, scatters):
    grid = Mesh.parse(mesh)
    space = strategy_space(grp, grid, scatters=scatters)
    for tensor in tensors(grp):
        extents = tuple(
            int(np.prod([grp.sizes[factor] for factor in factors]))
            for factors in tensor.dims
        )
        shardings, index = space.lies(tensor)
        for shards, at in zip(space.shards(tensor), index, strict=True):
            local = shardings[at].local_shape(extents, grid)
            assert np.prod(local) * shards == np.prod(extents)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("grp", [PRODUCT, RESHAPE], ids=["product", "reshape"])
def test_all_strategies_at_once_give_the_shardings_that_each_gives(grp, mesh):
    grid = Mesh.parse(mesh)
    space = strategy_space(grp, grid, scatters=True)
    for tensor in tensors(grp):
        shardings, index = space.lies(tensor)
        assert len(set(shardings)) == len(shardings)
        assert [shardings[at] for at in index] == [
            sharding_of(strategy, tensor, grid) for strategy in space.strategies
        ]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("size", [*range(2, 40), 50257])
def test_unequal_parts_leave_no_device_empty_and_pad_little(size, mesh):
    grid = Mesh.parse(mesh)
    vector = replace(group((size,), ((0,),)), uneven=frozenset({0}))
    space = strategy_space(vector, grid, scatters=False)
    shardings, index = space.lies(vector.outputs[0])
    for shards, at in zip(space.shards(vector.outputs[0]), index, strict=True):
        (local,) = shardings[at].local_shape((size,), grid)
        count = shardings[at].num_shards(grid)
        assert size / shards == pytest.approx(local)
        assert (count - 1) * local < size
        assert count * local <= size * 1.25


def test_what_is_scattered_has_equal_parts():
    uneven = replace(PRODUCT, sizes=(13, 8, 24), uneven=frozenset({0, 1, 2}))
    grid = Mesh.parse("2x4")
    for strategy in strategy_space(uneven, grid, scatters=True).strategies:
        cut = {*strategy.before, *strategy.after}
        assert strategy.before == strategy.after or 0 not in cut


def test_meshes_whose_axes_divide_the_same_factors_have_strategies_in_common():
    large = group((64, 128), ((0,), (1,)))
    spaces = [
        strategy_space(large, Mesh.parse(mesh), scatters=False)
        for mesh in ("2x4", "4x2", "2x64")
    ]
    assert spaces[0].arrangements is spaces[1].arrangements
    assert spaces[0].arrangements is not spaces[2].arrangements
    assert spaces[0].before.tolist() != spaces[1].before.tolist()


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("grp", [PRODUCT, RESHAPE], ids=["product", "reshape"])
def test_the_first_strategy_cuts_nothing_and_none_comes_twice(grp, mesh):
    space = strategy_space(grp, Mesh.parse(mesh), scatters=True)
    first = space.strategies[0]
    assert set(first.before) == set(first.after) == {None}
    assert len(set(space.strategies)) == len(space)


def test_a_product_may_be_cut_by_row_column_and_contraction():
    space = strategy_space(PRODUCT, Mesh.parse("4"), scatters=False)
    assert [strategy.before for strategy in space.strategies] == [
        (None,),
        (0,),
        (1,),
        (2,),
    ]
    # What is contracted away is whole again on every device.
    assert [strategy.after for strategy in space.strategies] == [
        (None,),
        (0,),
        (None,),
        (2,),
    ]


def test_partial_results_may_be_scattered_where_the_compiler_can():
    space = strategy_space(PRODUCT, Mesh.parse("4"), scatters=True)
    scattered = [s for s in space.strategies if s.is_scattered(0)]
    assert [(s.before, s.after) for s in scattered] == [((1,), (0,)), ((1,), (2,))]
    (output,) = PRODUCT.outputs
    shardings, index = space.lies(output)
    lying = {shardings[index[space.strategies.index(s)]] for s in scattered}
    assert lying == {Sharding((("x",), ())), Sharding(((), ("x",)))}


def test_a_scattered_axis_cuts_what_an_earlier_cut_left():
    space = strategy_space(PRODUCT, Mesh.parse("2x2"), scatters=True)
    (output,) = PRODUCT.outputs
    shardings, index = space.lies(output)
    for strategy, at in zip(space.strategies, index, strict=True):
        if strategy.before == (1, 0) and strategy.after == (0, 0):
            assert shardings[at] == Sharding((("y", "x"), ()))
            return
    raise AssertionError("the strategy is missing")


@pytest.mark.parametrize("mesh", MESHES)
def test_a_minor_factor_is_cut_only_after_the_whole_major_one(mesh):
    grid = Mesh.parse(mesh)
    space = strategy_space(RESHAPE, grid, scatters=False)
    for major, minor in space.before:
        assert minor == 1 or major == RESHAPE.sizes[0]


def test_blocked_factors_are_never_cut():
    blocked = group((8, 8), ((0,), (1,)), blocked=(1,))
    space = strategy_space(blocked, Mesh.parse("2x2"), scatters=False)
    assert set(space.before[:, 1]) == {1}
    assert set(space.before[:, 0]) == {1, 2, 4}


def test_an_axis_of_size_one_cuts_nothing():
    space = strategy_space(PRODUCT, Mesh.parse("1x4"), scatters=False)
    assert all(strategy.before[0] is None for strategy in space.strategies)


def test_lying_keeps_the_strategies_that_give_a_sharding():
    space = strategy_space(PRODUCT, Mesh.parse("2x2"), scatters=False)
    (output,) = PRODUCT.outputs
    wanted = Sharding((("x",), ("y",)))
    kept = space.lying(output, wanted)
    shardings, _ = kept.lies(output)
    assert shardings == (wanted,)
    assert [s.before for s in kept.strategies] == [(0, 2)]
    assert len(space.lying(output, Sharding((("y",), ("z",))))) == 0
