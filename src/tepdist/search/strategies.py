"""Strategies: the ways in which a group may lie on a mesh.

A strategy assigns to each mesh axis one factor of the group, or none. Batch, row,
column, contracting, expert, sequence and vocabulary sharding are all this. Where the
factor is reduced away, the partial results are summed over the axis: left whole on
each device (all-reduce), or scattered along a dim of the result (reduce-scatter).
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.groups import Group, GroupTensor
from tepdist.analysis.nodes import Dims
from tepdist.search.shared import Array
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


@dataclass(frozen=True, slots=True)
class Held:
    """What some mesh axes cut whatever the others do.

    Attributes:
        axes: Those.
        before: Factor that each of them cuts, as in `Strategy`.
        after: Likewise.
    """

    axes: tuple[int, ...]
    before: tuple[int | None, ...]
    after: tuple[int | None, ...]


class Space:
    """The strategies of alike groups on one mesh, and what each means for a tensor.

    Compared by identity; remembers what it was asked.

    Attributes:
        mesh: Where they lie.
        strategies: All of them.
    """

    def __init__(
        self, mesh: Mesh, strategies: tuple[Strategy, ...], num_factors: int
    ) -> None:
        self.mesh = mesh
        self.strategies = strategies
        # Into how many parts each strategy cuts each factor, [strategies, factors].
        self.before = _cuts([s.before for s in strategies], num_factors, mesh.shape)
        self.after = _cuts([s.after for s in strategies], num_factors, mesh.shape)
        self._lies: dict[
            tuple[Dims, bool], tuple[tuple[Sharding, ...], NDArray[np.intp]]
        ] = {}
        self._axes_of: dict[bool, list[dict[int, tuple[str, ...]]]] = {}
        self._shards: dict[tuple[Dims, bool], Array] = {}

    def __len__(self) -> int:
        return len(self.strategies)

    def shards(self, tensor: GroupTensor) -> Array:
        """Number of shards of a tensor under each strategy, [num strategies]."""
        key = (tensor.dims, tensor.reduced)
        if key not in self._shards:
            factors = [factor for dim in tensor.dims for factor in dim]
            table = self.after if tensor.reduced else self.before
            self._shards[key] = table[:, factors].prod(axis=1)
        return self._shards[key]

    def lies(
        self, tensor: GroupTensor
    ) -> tuple[tuple[Sharding, ...], NDArray[np.intp]]:
        """The distinct shardings of a tensor, and which of them each strategy gives."""
        key = (tensor.dims, tensor.reduced)
        if key not in self._lies:
            numbers: dict[tuple[tuple[str, ...], ...], int] = {}
            index = [
                numbers.setdefault(_cut_dims(axes, tensor.dims), len(numbers))
                for axes in self._axes(reduced=tensor.reduced)
            ]
            shardings = tuple(Sharding(dims) for dims in numbers)
            self._lies[key] = (shardings, np.array(index, np.intp))
        return self._lies[key]

    def _axes(self, *, reduced: bool) -> list[dict[int, tuple[str, ...]]]:
        """For each strategy the names of the axes that cut each factor it cuts."""
        if reduced not in self._axes_of:
            self._axes_of[reduced] = [
                _names(strategy, self.mesh, reduced=reduced)
                for strategy in self.strategies
            ]
        return self._axes_of[reduced]

    def lying(self, tensor: GroupTensor, sharding: Sharding) -> "Space":
        """The part of the space in which a tensor lies like this."""
        shardings, index = self.lies(tensor)
        return self.only(np.array([shardings[at] == sharding for at in index], bool))

    def only(self, kept: NDArray[np.bool_]) -> "Space":
        """The part of the space that is kept, [num strategies]."""
        strategies = tuple(itertools.compress(self.strategies, kept))
        return Space(self.mesh, strategies, self.before.shape[1])


def _cuts(
    assigned: Sequence[tuple[int | None, ...]], num_factors: int, shape: tuple[int, ...]
) -> Array:
    table = np.ones((len(assigned), num_factors))
    for row, factors in enumerate(assigned):
        for axis, factor in enumerate(factors):
            if factor is not None:
                table[row, factor] *= shape[axis]
    return table


def sharding_of(strategy: Strategy, tensor: GroupTensor, mesh: Mesh) -> Sharding:
    """How a tensor of the group lies under a strategy."""
    return _lying(strategy, mesh, tensor.dims, reduced=tensor.reduced)


# Asked for 60,000 tensors of a 96-layer GPT, of which 200 differ.
@lru_cache(maxsize=2**16)
def _lying(strategy: Strategy, mesh: Mesh, dims: Dims, *, reduced: bool) -> Sharding:
    return Sharding(_cut_dims(_names(strategy, mesh, reduced=reduced), dims))


def _names(
    strategy: Strategy, mesh: Mesh, *, reduced: bool
) -> dict[int, tuple[str, ...]]:
    """The axes that cut each factor that a strategy cuts, major first."""
    names = mesh.names
    cut = strategy.after if reduced else strategy.before
    axes: Iterable[int] = range(len(cut))
    if reduced:
        axes = sorted(axes, key=strategy.is_scattered)
    found: dict[int, tuple[str, ...]] = {}
    for axis in axes:
        factor = cut[axis]
        if factor is not None:
            found[factor] = (*found.get(factor, ()), names[axis])
    return found


def _cut_dims(
    axes: Mapping[int, tuple[str, ...]], dims: Dims
) -> tuple[tuple[str, ...], ...]:
    """The axes that cut each dim of a tensor.

    Args:
        axes: That cut each factor.
        dims: Factors of each dim.
    """
    return tuple(
        [
            axes.get(factors[0], ())
            if len(factors) == 1
            else tuple([axis for factor in factors for axis in axes.get(factor, ())])
            for factors in dims
        ]
    )


def strategy_space(
    group: Group, mesh: Mesh, *, scatters: bool, held: Held | None = None
) -> Space:
    """All strategies of a group; the first shards nothing, unless the program does.

    Args:
        group: Any.
        mesh: Any.
        scatters: Whether partial results may be reduce-scattered.
        held: What some axes cut in all of them; None leaves every axis free.
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
    return _space(
        group.sizes,
        group.blocked,
        group.reduction,
        compound=compound,
        results=results if scatters else frozenset(),
        pinned=group.pinned,
        held=held,
        mesh=mesh,
    )


@lru_cache(maxsize=1 << 12)
def _space(
    sizes: tuple[int, ...],
    blocked: frozenset[int],
    reduction: frozenset[int],
    *,
    compound: frozenset[tuple[tuple[int, ...], bool]],
    results: frozenset[int],
    pinned: tuple[tuple[str, int | None], ...],
    held: Held | None,
    mesh: Mesh,
) -> Space:
    free = [factor for factor in range(len(sizes)) if factor not in blocked]
    taken = dict(pinned)
    free = [factor for factor in free if factor not in taken.values()]
    choices = [
        _choices(name, size, free, sizes=sizes, taken=taken) for name, size in mesh.axes
    ]
    if held is not None:
        for axis, factor in zip(held.axes, held.before, strict=True):
            choices[axis] = (factor,)
    found = _strategies(
        choices,
        sizes,
        reduction,
        compound=compound,
        results=results,
        shape=mesh.shape,
    )
    if held is not None:
        found = tuple(
            strategy
            for strategy in found
            if tuple(strategy.after[axis] for axis in held.axes) == held.after
        )
    return Space(mesh, found, len(sizes))


def _choices(
    axis: str,
    size: int,
    free: Sequence[int],
    *,
    sizes: tuple[int, ...],
    taken: Mapping[str, int | None],
) -> tuple[int | None, ...]:
    """Factors that a mesh axis may cut."""
    if axis in taken:
        return (taken[axis],)
    if size == 1:
        return (None,)
    return (None, *(factor for factor in free if sizes[factor] % size == 0))


def _strategies(
    choices: Sequence[Sequence[int | None]],
    sizes: tuple[int, ...],
    reduction: frozenset[int],
    *,
    compound: frozenset[tuple[tuple[int, ...], bool]],
    results: frozenset[int],
    shape: tuple[int, ...],
) -> tuple[Strategy, ...]:
    found = []
    for before in itertools.product(*choices):
        for after in _scatterings(before, reduction, results, sizes=sizes, shape=shape):
            strategy = Strategy(before, after)
            if _fits(strategy, sizes, shape) and all(
                _is_dense(strategy, factors, sizes, shape=shape, reduced=reduced)
                for factors, reduced in compound
            ):
                found.append(strategy)
    return tuple(found)


def _scatterings(
    before: tuple[int | None, ...],
    reduction: frozenset[int],
    results: frozenset[int],
    *,
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


def _fits(strategy: Strategy, sizes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    for assigned in dict.fromkeys((strategy.before, strategy.after)):
        parts: dict[int, int] = {}
        for size, factor in zip(shape, assigned, strict=True):
            if factor is not None:
                parts[factor] = parts.get(factor, 1) * size
        if any(sizes[factor] % count for factor, count in parts.items()):
            return False
    return True


def _is_dense(
    strategy: Strategy,
    factors: tuple[int, ...],
    sizes: tuple[int, ...],
    *,
    shape: tuple[int, ...],
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
