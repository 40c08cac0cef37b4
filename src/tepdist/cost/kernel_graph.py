"""Kernels of one block as they are added, and the graph that they make."""

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tepdist.analysis.schedule import Kernels
from tepdist.cost.compute import memory_s
from tepdist.cost.kernel_times import hidden_s
from tepdist.cost.placed import Placed

# Reductions of so many times fewer elements than the largest do not move the peak.
_SMALL = 16
_MOST_SIBLINGS = 200  # loops that a reduction is tried with

# Kernels that are read, and whether each element is read for the matching one alone.
Reads = tuple[tuple[int, bool], ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """Kernels of one block.

    Attributes:
        kernels: Themselves.
        keys: Collectives to what those that may be combined share.
        updates: Argument to the kernel that writes over it.
        siblings: Pairs that a compiler makes one kernel of if it can: a constant, and
            the loop that reads it first or else a copy of it; a conversion of an
            argument and what writes over that; a reduction, and a loop over the same
            elements that it reads or shares an operand with.
    """

    kernels: Kernels
    keys: Mapping[int, Hashable]
    updates: Mapping[int, int]
    siblings: Sequence[tuple[int, int]]


class GraphBuilder:
    """Adds kernels, each after those that it reads.

    Attributes:
        bytes_: What each kernel makes [B].
        reductions: Reductions of accelerators to the elements that they go through.
        loops: Pointwise kernels of accelerators likewise.
        rows: Reductions of accelerators along rows that fit into registers.
        conversions: Kernels that convert an argument late, to that argument.
    """

    def __init__(self, placed: Placed) -> None:
        """Starts without kernels.

        Args:
            placed: The program that they are of.
        """
        self.bytes_: list[int] = []
        self.reductions: dict[int, int] = {}
        self.loops: dict[int, int] = {}
        self.rows: set[int] = set()
        self.conversions: dict[int, int] = {}
        self._placed = placed
        self._operands: list[tuple[int, ...]] = []
        self._reusable: list[tuple[int, ...]] = []
        self._is_given: list[bool] = []
        self._inner: list[int] = []
        self._seconds: list[float] = []
        self._keys: dict[int, Hashable] = {}
        self._pairs: list[tuple[int, int]] = []
        self._ends: dict[int, int] = {}
        self._alone: set[int] = set()
        self._bundled: set[int] = set()

    def add(
        self,
        reads: Iterable[tuple[int, bool]],
        bytes_: int,
        *,
        is_given: bool = False,
        inner: int = 0,
        seconds: float | None = None,
        is_alone: bool = False,
        is_bundled: bool = False,
    ) -> int:
        """Adds a kernel after all others; its number.

        Args:
            reads: What it reads.
            bytes_: That it makes [B].
            is_given: Whether it is an argument.
            inner: Bytes that it needs besides while it runs [B].
            seconds: That it takes; None if moving what it reads and makes does.
            is_alone: Whether it runs beside no collective.
            is_bundled: Whether it makes several results at once.
        """
        if is_alone:
            self._alone.add(len(self.bytes_))
        if is_bundled:
            self._bundled.add(len(self.bytes_))
        reads = tuple(reads)
        # Written over only if no read of it is more than pointwise.
        others = {at for at, is_pointwise in reads if not is_pointwise}
        # A reduction and what is done with it are one kernel: it reads twice.
        others.update(*(self._operands[at] for at in others & self.rows))
        self._operands.append(tuple(dict.fromkeys(at for at, _ in reads)))
        self._reusable.append(
            tuple(dict.fromkeys(at for at, _ in reads if at not in others))
        )
        self.bytes_.append(bytes_)
        self._is_given.append(is_given)
        self._inner.append(inner)
        if seconds is None:
            seconds = self._moving_s(self._operands[-1], bytes_)
        self._seconds.append(seconds)
        return len(self.bytes_) - 1

    def _moving_s(self, operands: Iterable[int], bytes_: int) -> float:
        """Time to read kernels and to make some bytes [s]; no matter on CPUs."""
        if not bytes_ or self._placed.platform == "cpu":
            return 0.0
        moved = bytes_ + sum(self.bytes_[at] for at in operands)
        return float(memory_s(float(moved), self._placed.pricing.cluster.device))

    def add_collective(
        self,
        operands: Sequence[int],
        bytes_: int,
        *,
        key: tuple[str, tuple[tuple[str, ...], str]],
        payload: float,
    ) -> tuple[int, ...]:
        """Adds a collective: its result, and outside XLA:CPU what ends it.

        Args:
            operands: Kernels that it reads.
            bytes_: Of its result [B].
            key: Kind, mesh axes and dtype.
            payload: As in `Collective.bytes_` [B].
        """
        if self._placed.platform == "cpu":
            at = self.add([(operand, False) for operand in operands], bytes_)
            self._keys[at] = key
            return (at,)
        in_place = key[0] == "all_reduce"
        reads = [(operand, in_place) for operand in operands]
        kind, (axes, _) = key
        seconds = hidden_s(kind, payload, axes, placed=self._placed)
        at = self.add(reads, bytes_, seconds=seconds)
        self._keys[at] = key
        # What it reads is there until its end, unless it writes over that.
        read = (at,) if in_place else (at, *operands)
        self._ends[at] = self.add([(each, False) for each in read], 0)
        return (at, self._ends[at])

    def start_from(self, fill: int) -> int:
        """What is scattered into of a constant that others read.

        The constant is made with the loop that reads it first, if one does; else with a
        copy, which is scattered into.

        Args:
            fill: The constant.
        """
        readers = (at for at, read in enumerate(self._operands) if fill in read)
        first = next(readers, fill)
        if first in self.loops:
            self._pairs.append((fill, first))
            return fill
        copy = self.add((), self.bytes_[fill])
        self._pairs.append((fill, copy))
        return copy

    def finish(self, roots: Iterable[int], updates: Mapping[int, int]) -> Graph:
        """The graph of all kernels.

        Args:
            roots: Kernels whose results are handed out.
            updates: Argument to the kernel that writes over it.
        """
        users: list[list[int]] = [[] for _ in self.bytes_]
        for at, operands in enumerate(self._operands):
            for operand in operands:
                users[operand].append(at)
        kernels = Kernels(
            operands=tuple(self._operands),
            users=tuple(map(tuple, users)),
            bytes_=tuple(self.bytes_),
            is_given=tuple(self._is_given),
            roots=tuple(roots),
            inner_bytes=tuple(self._inner),
            reusable=tuple(self._reusable),
            seconds=tuple(self._seconds),
            ends=self._ends,
            alone=frozenset(self._alone),
            bundled=frozenset(self._bundled),
        )
        late = [
            (conversion, updates[argument])
            for conversion, argument in self.conversions.items()
            if argument in updates
        ]
        siblings = [*self._pairs, *late, *self._siblings(users)]
        return Graph(kernels, self._keys, updates, siblings)

    def _siblings(self, users: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
        """Reductions, each with the first loops over the same elements next to it."""
        least = max(self.reductions.values(), default=0) // _SMALL
        loops = [[user for user in read if user in self.loops] for read in users]
        for at, elements in self.reductions.items():
            if elements < least:
                continue
            near = (
                pair
                for operand in self._operands[at]
                for pair in (
                    (operand, at),
                    *((at, user) for user in loops[operand] if user != at),
                )
                if self.loops.get(pair[0] if pair[1] == at else pair[1]) == elements
            )
            # Many operands may have many readers in common.
            yield from dict.fromkeys(itertools.islice(near, _MOST_SIBLINGS))
