"""How a mesh of two axes is refined: which axes are split, and what is left free."""

import math
from itertools import pairwise

import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.search.refinement import exchanges, splits
from tepdist.sharding import Mesh


@pytest.mark.parametrize("mesh", ["2x4", "8x8", "3x5", "32x32", "6x20", "128x8"])
def test_parts_multiply_to_the_axis_that_was_split_and_one_is_free(mesh):
    coarse = Mesh.parse(mesh)
    cluster = parse_cluster(f"{coarse.num_devices // 2}x2xa100-80g")
    for move in splits(coarse, cluster.levels, whole=()):
        assert all(0 <= later - first <= 1 for first, later in pairwise(move.part_of))
        for axis, whole in enumerate(coarse.shape):
            sizes = zip(move.mesh.shape, move.part_of, strict=True)
            parts = [size for size, of in sizes if of == axis]
            assert math.prod(parts) == whole
            assert 1 not in parts
        (free,) = move.free
        assert move.part_of.count(move.part_of[free]) == 2


def test_an_axis_is_split_where_a_link_level_ends():
    cluster = parse_cluster("8x8xa100-80g")
    moves = splits(Mesh.parse("2x32"), cluster.levels, whole=())
    free = [move.free for move in moves if move.mesh.shape == (2, 4, 8)]
    assert free == [(1,), (2,)]


def test_primes_are_not_split():
    cluster = parse_cluster("3x5xa100-80g")
    assert not list(splits(Mesh.parse("3x5"), cluster.levels, whole=()))


def test_an_axis_that_the_user_names_stays_whole():
    cluster = parse_cluster("8x8xa100-80g")
    moves = list(splits(Mesh.parse("8x8"), cluster.levels, whole={"x"}))
    assert {move.part_of for move in moves} == {(0, 1, 1)}


def test_an_exchange_keeps_something_free_that_was():
    cluster = parse_cluster("8x8xa100-80g")
    for move in splits(Mesh.parse("8x8"), cluster.levels, whole=()):
        for first in exchanges(move):
            assert first.mesh == move.mesh
            assert set(move.free) < set(first.free)
            for second in exchanges(first):
                assert len(second.free) == 2
                assert second.free != first.free
