"""Strategies: the ways in which a group may lie on a mesh.

A strategy assigns to each mesh axis one factor of the group, or none. Batch, row,
column, contracting, expert, sequence and vocabulary sharding are all this. Where the
factor is reduced away, the partial results are summed over the axis: left whole on
each device (all-reduce), or scattered along a dim of the result (reduce-scatter).
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tepdist.analysis.groups import Group, GroupTensor
from tepdist.analysis.nodes import Dims
from tepdist.sharding import Mesh, Sharding


@dataclass(frozen=True, slots=True)
class Strategy:
    """Factor that each mesh axis cuts, in mesh axis order; None for none.

    Attributes:
        before: Of tensors before the group's reduction.
        after: Of tensors after it; differs from `before` on reduced axes only.
    """

    before: tuple[int | None, ...]
    after: tuple[int | None, ...]

    def is_scattered(self, axis: int) -> bool:
        return self.before[axis] != self.after[axis] and self.after[axis] is not None

    def axes_of(self, factor: int, *, reduced: bool) -> tuple[int, ...]:
        """Axes that cut a factor, major first: a scattered axis cuts what is left."""
        assigned = self.after if reduced else self.before
        axes = [axis for axis, cut in enumerate(assigned) if cut == factor]
        if reduced:
            axes.sort(key=self.is_scattered)
        return tuple(axes)


def sharding_of(strategy: Strategy, tensor: GroupTensor, mesh: Mesh) -> Sharding:
    """How a tensor of the group lies under a strategy."""
    return _sharding(strategy, tensor.dims, tensor.reduced, mesh.names)


@lru_cache(maxsize=1 << 18)
def _sharding(
    strategy: Strategy, dims: Dims, reduced: bool, names: tuple[str, ...]
) -> Sharding:
    return Sharding(
        tuple(
            tuple(
                names[axis]
                for factor in factors
                for axis in strategy.axes_of(factor, reduced=reduced)
            )
            for factors in dims
        )
    )


def enumerate_strategies(
    group: Group, mesh: Mesh, *, scatters: bool
) -> tuple[Strategy, ...]:
    """All strategies of a group; the first shards nothing.

    Args:
        group: Any.
        mesh: Any.
        scatters: Whether partial results may be reduce-scattered.
    """
    tensors = (*group.inputs, *group.outputs)
    compound = frozenset(
        (factors, tensor.reduced)
        for tensor in tensors
        for factors in tensor.dims
        if len(factors) > 1
    )
    results = frozenset(
        factor
        for tensor in group.outputs
        if tensor.member == 0
        for factors in tensor.dims
        for factor in factors[:1]
    )
    return _strategies(
        group.sizes,
        group.blocked,
        group.reduction,
        compound,
        results if scatters else frozenset(),
        mesh.shape,
    )


@lru_cache(maxsize=1 << 12)
def _strategies(
    sizes: tuple[int, ...],
    blocked: frozenset[int],
    reduction: frozenset[int],
    compound: frozenset[tuple[tuple[int, ...], bool]],
    results: frozenset[int],
    shape: tuple[int, ...],
) -> tuple[Strategy, ...]:
    free = [factor for factor in range(len(sizes)) if factor not in blocked]
    choices: list[list[int | None]] = [
        [None, *(f for f in free if sizes[f] % size == 0)] if size > 1 else [None]
        for size in shape
    ]
    found = []
    for before in itertools.product(*choices):
        for after in _scatterings(before, reduction, results, sizes, shape):
            strategy = Strategy(before, after)
            if _fits(strategy, sizes, shape) and all(
                _is_dense(strategy, factors, sizes, shape, reduced=reduced)
                for factors, reduced in compound
            ):
                found.append(strategy)
    return tuple(found)


def _scatterings(
    before: tuple[int | None, ...],
    reduction: frozenset[int],
    results: frozenset[int],
    sizes: tuple[int, ...],
    shape: tuple[int, ...],
) -> Iterator[tuple[int | None, ...]]:
    options: list[list[int | None]] = []
    for axis, factor in enumerate(before):
        if factor in reduction:
            fitting = [f for f in sorted(results) if sizes[f] % shape[axis] == 0]
            options.append([None, *fitting])
        else:
            options.append([factor])
    yield from itertools.product(*options)


def _fits(
    strategy: Strategy, sizes: tuple[int, ...], shape: tuple[int, ...]
) -> bool:
    for assigned in (strategy.before, strategy.after):
        for factor, size in enumerate(sizes):
            parts = math.prod(
                shape[axis] for axis, cut in enumerate(assigned) if cut == factor
            )
            if size % parts:
                return False
    return True


def _is_dense(
    strategy: Strategy,
    factors: tuple[int, ...],
    sizes: tuple[int, ...],
    shape: tuple[int, ...],
    *,
    reduced: bool,
) -> bool:
    """Whether a dim of several factors is cut in one piece a device.

    A minor factor may be cut only where every factor before it is cut completely.
    """
    complete = True
    for factor in factors:
        parts = math.prod(
            shape[axis] for axis in strategy.axes_of(factor, reduced=reduced)
        )
        if parts > 1 and not complete:
            return False
        complete = complete and parts == sizes[factor]
    return True
