"""Arrangements: strategies of a group, as far as axes' sizes do not matter.

Which strategies there are depends on which factors are divided by which axes, and how
a tensor lies under each of them on the axes' names alone. So meshes of one search have
most arrangements in common, and what is found of one is found once.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.nodes import Dims
from tepdist.sharding import Sharding

# For each subset of the mesh axes, as bits, how a factor is cut by them.
_NOT_CUT, _DIVIDED, _CUT_COMPLETELY, _UNEVEN = range(4)
# Of a factor, what the padding of unequal parts may add to it.
_MOST_PADDING = 1 / 4
Divisions = tuple[int, ...]


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


@dataclass(frozen=True, slots=True)
class Choices:
    """What the strategies of a group depend on, beside its factors' sizes.

    Attributes:
        blocked: Factors that may not be cut.
        uneven: Factors that may be cut into unequal parts.
        reduction: Factors that are reduced away.
        compound: Dims of several factors, and whether they are after the reduction.
        results: Factors along which partial results may be scattered.
        pinned: Mesh axes that must cut a certain factor; None for none.
    """

    blocked: frozenset[int]
    uneven: frozenset[int]
    reduction: frozenset[int]
    compound: frozenset[tuple[tuple[int, ...], bool]]
    results: frozenset[int]
    pinned: tuple[tuple[str, int | None], ...]


class Arrangements:
    """Some strategies on axes of these names, and how tensors lie under each.

    Compared by identity; remembers what it was asked.

    Attributes:
        names: Of the mesh axes.
        strategies: All of them.
        num_factors: Of the group.
        before: Factor that each axis cuts before the group's reduction, `num_factors`
            for none, [strategies, axes].
        after: Likewise after it.
        is_even: Whether no strategy cuts a factor into unequal parts.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        strategies: tuple[Strategy, ...],
        num_factors: int,
        *,
        is_even: bool,
    ) -> None:
        self.names = names
        self.strategies = strategies
        self.num_factors = num_factors
        self.is_even = is_even
        self.before = _numbers([s.before for s in strategies], names, num_factors)
        self.after = _numbers([s.after for s in strategies], names, num_factors)
        self._lies: dict[
            tuple[Dims, bool], tuple[tuple[Sharding, ...], NDArray[np.intp]]
        ] = {}
        self._summing: dict[frozenset[int], tuple[int, ...]] = {}

    def only(self, kept: NDArray[np.bool_]) -> "Arrangements":
        """Those that are kept, [num strategies]."""
        strategies = tuple(itertools.compress(self.strategies, kept))
        return Arrangements(
            self.names, strategies, self.num_factors, is_even=self.is_even
        )

    def lies(
        self, dims: Dims, *, reduced: bool
    ) -> tuple[tuple[Sharding, ...], NDArray[np.intp]]:
        """The distinct shardings of a tensor, and which of them each strategy gives.

        Args:
            dims: Factors of each dim of the tensor.
            reduced: Whether it is after the group's reduction.
        """
        key = (dims, reduced)
        if key not in self._lies:
            numbers: dict[tuple[tuple[str, ...], ...], int] = {}
            known: dict[int, int] = {}
            index = []
            for strategy, code in zip(
                self.strategies, self._codes(dims, reduced=reduced), strict=True
            ):
                if code not in known:
                    cut = cut_dims(strategy, self.names, dims, reduced=reduced)
                    known[code] = numbers.setdefault(cut, len(numbers))
                index.append(known[code])
            shardings = tuple(Sharding(cut) for cut in numbers)
            self._lies[key] = (shardings, np.array(index, np.intp))
        return self._lies[key]

    def summing(self, reduction: frozenset[int]) -> tuple[int, ...]:
        """For each strategy the first that sums over the same axes in the same way.

        Args:
            reduction: Factors that are reduced away.
        """
        if reduction not in self._summing:
            known: dict[object, int] = {}
            found = []
            for at, strategy in enumerate(self.strategies):
                cuts = zip(strategy.before, strategy.after, strict=True)
                key = tuple(
                    [
                        (factor, after is None) if factor in reduction else None
                        for factor, after in cuts
                    ]
                )
                found.append(known.setdefault(key, at))
            self._summing[reduction] = tuple(found)
        return self._summing[reduction]

    def _codes(self, dims: Dims, *, reduced: bool) -> list[int]:
        """A number for each strategy: equal ones cut the tensor alike."""
        factors = [factor for dim in dims for factor in dim]
        places = np.zeros(self.num_factors + 1, np.int64)
        places[factors] = np.arange(1, len(factors) + 1)
        cut = places[self.after if reduced else self.before]
        codes = np.zeros(len(cut), np.int64)
        for axis in range(len(self.names)):
            codes = codes * (len(factors) + 1) + cut[:, axis]
        if reduced:
            scattered = self.before != self.after
            for major, minor in itertools.combinations(range(len(self.names)), 2):
                is_alike = (cut[:, major] == cut[:, minor]) & (cut[:, major] > 0)
                is_turned = is_alike & scattered[:, major] & ~scattered[:, minor]
                codes = codes * 2 + is_turned
        found: list[int] = codes.tolist()
        return found


def _numbers(
    assigned: Sequence[tuple[int | None, ...]],
    names: tuple[str, ...],
    num_factors: int,
) -> NDArray[np.intp]:
    numbers = [[num_factors if f is None else f for f in each] for each in assigned]
    return np.array(numbers, np.intp).reshape(len(assigned), len(names))


def cut_dims(
    strategy: Strategy, names: tuple[str, ...], dims: Dims, *, reduced: bool
) -> tuple[tuple[str, ...], ...]:
    """The axes that cut each dim of a tensor under a strategy, major first.

    Args:
        strategy: Of the tensor's group.
        names: Of the mesh axes.
        dims: Factors of each dim.
        reduced: Whether the tensor is after the group's reduction.
    """
    return _cut_dims(_names(strategy, names, reduced=reduced), dims)


def _names(
    strategy: Strategy, names: tuple[str, ...], *, reduced: bool
) -> dict[int, tuple[str, ...]]:
    """The axes that cut each factor that a strategy cuts, major first."""
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


@lru_cache(maxsize=1 << 12)
def divisions(size: int, shape: tuple[int, ...], *, uneven: bool) -> Divisions:
    """What mesh axes of these sizes, some together, make of a factor of this size.

    Args:
        size: Of the factor.
        shape: Sizes of the axes.
        uneven: Whether it may be cut into unequal parts.
    """
    found = []
    for axes in itertools.product(*((1, extent) for extent in reversed(shape))):
        parts = math.prod(axes)
        if parts == size:
            found.append(_CUT_COMPLETELY)
        elif size % parts == 0:
            found.append(_DIVIDED)
        else:
            found.append(_UNEVEN if uneven and _pays(size, parts) else _NOT_CUT)
    return tuple(found)


def _pays(size: int, parts: int) -> bool:
    """Whether unequal parts leave no device empty and pad little."""
    shard = -(-size // parts)
    padding = parts * shard - size
    return padding < shard and padding <= _MOST_PADDING * size


@lru_cache(maxsize=1 << 12)
def arrangements(
    choices: Choices,
    factors: tuple[Divisions, ...],
    names: tuple[str, ...],
    *,
    single: int,
    held: Held | None,
) -> Arrangements:
    """All strategies; the first cuts nothing, unless the program does.

    Args:
        choices: Of the group.
        factors: What the mesh axes make of each factor.
        names: Of the mesh axes.
        single: Those of size 1, as bits: they cut nothing.
        held: What some axes cut in all strategies; None leaves every axis free.
    """
    cut = _cut_by_each(choices, factors, names, single=single)
    if held is not None:
        for axis, factor in zip(held.axes, held.before, strict=True):
            cut[axis] = (factor,)
    found = tuple(
        Strategy(before, after)
        for before in itertools.product(*cut)
        if _fits(before, factors)
        for after in _scatterings(before, choices, factors)
        if (before == after or _is_even(before, after, factors))
        and _is_dense(before, after, choices, factors=factors, single=single)
    )
    if held is not None:
        found = tuple(
            strategy
            for strategy in found
            if tuple(strategy.after[axis] for axis in held.axes) == held.after
        )
    is_even = all(_UNEVEN not in each for each in factors)
    return Arrangements(names, found, len(factors), is_even=is_even)


def _cut_by_each(
    choices: Choices,
    factors: Sequence[Divisions],
    names: Sequence[str],
    *,
    single: int,
) -> list[tuple[int | None, ...]]:
    """Factors that each mesh axis may cut."""
    taken = dict(choices.pinned)
    free = [f for f in range(len(factors)) if f not in choices.blocked]
    free = [factor for factor in free if factor not in taken.values()]
    found: list[tuple[int | None, ...]] = []
    for axis, name in enumerate(names):
        bit = 1 << axis
        if name in taken:
            found.append((taken[name],))
        elif single & bit:
            found.append((None,))
        else:
            found.append((None, *(f for f in free if factors[f][bit])))
    return found


def _scatterings(
    before: tuple[int | None, ...], choices: Choices, factors: Sequence[Divisions]
) -> Iterator[tuple[int | None, ...]]:
    options: list[list[int | None]] = []
    for axis, factor in enumerate(before):
        if factor in choices.reduction:
            fitting = [f for f in sorted(choices.results) if factors[f][1 << axis]]
            options.append([None, *fitting])
        else:
            options.append([factor])
    yield from itertools.product(*options)


def _cutting(assigned: tuple[int | None, ...]) -> dict[int, int]:
    """Axes that cut each factor that is cut, as bits."""
    found: dict[int, int] = {}
    for axis, factor in enumerate(assigned):
        if factor is not None:
            found[factor] = found.get(factor, 0) | 1 << axis
    return found


def _fits(assigned: tuple[int | None, ...], factors: Sequence[Divisions]) -> bool:
    return all(factors[factor][axes] for factor, axes in _cutting(assigned).items())


def _is_even(
    before: tuple[int | None, ...],
    after: tuple[int | None, ...],
    factors: Sequence[Divisions],
) -> bool:
    """Whether what is scattered is divided: each device reduces parts of one shape."""
    return _fits(after, factors) and all(
        factors[factor][axes] != _UNEVEN
        for assigned in (before, after)
        for factor, axes in _cutting(assigned).items()
    )


def _is_dense(
    before: tuple[int | None, ...],
    after: tuple[int | None, ...],
    choices: Choices,
    *,
    factors: Sequence[Divisions],
    single: int,
) -> bool:
    """Whether each dim of several factors is cut in one piece a device.

    A minor factor may be cut only where every factor before it is cut completely.
    """
    if not choices.compound:
        return True
    cutting = (_cutting(before), _cutting(after))
    for dim, reduced in choices.compound:
        is_complete = True
        for factor in dim:
            axes = cutting[reduced].get(factor, 0)
            if axes & ~single and not is_complete:
                return False
            is_complete = is_complete and factors[factor][axes] == _CUT_COMPLETELY
    return True
