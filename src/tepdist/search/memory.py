"""Memory of an assignment over time, and at the few times that the solver sees."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tepdist.search.copies import Copied, Copies
from tepdist.search.network import CostSums, Network
from tepdist.search.problem import Problem
from tepdist.search.shared import Array
from tepdist.search.structure import Structure


@dataclass(frozen=True, slots=True)
class Term:
    """Something in memory, and the variables whose values put it there."""

    bytes_: float
    variables: tuple[int, ...]
    is_copy: bool


class TimedMemory(Protocol):
    """Memory of assignments over time; see `MemoryModel`."""

    @property
    def fixed(self) -> float:
        """Bytes that no variable decides, at any time [B]."""
        ...

    def profile(self, assignment: Sequence[int], /) -> Array:
        """Bytes in use at each time."""
        ...

    def least_profile(self) -> Array:
        """Bytes in use at each time if each tensor were cut most."""
        ...

    def usages(self, times: Sequence[int], /) -> tuple[Array, ...]:
        """Usage of each value of each variable at these times, copies left out."""
        ...

    def copied(self, time: int, /) -> Iterable[Copied]:
        """The copies that may be in use at a time, and when they are."""
        ...


class Memory(TimedMemory, Protocol):
    """Memory whose use can be priced into costs."""

    def terms(self, assignment: Sequence[int], time: int, /) -> Iterable[Term]:
        """What is in use at a time, and which variables put it there."""
        ...

    def priced(
        self, network: Network, prices: Mapping[int, float], /, *, spanning: bool
    ) -> Network:
        """A network with the use at some times priced into its costs.

        No more is priced than is in use, unless `spanning`.
        """
        ...


class MemoryModel:
    """Memory of assignments of one problem."""

    def __init__(self, structure: Structure, problem: Problem) -> None:
        self._buffers = structure.buffers
        self._copies = Copies(structure, problem)
        self._spaces = problem.spaces
        self._kind_variable = [variable for _, variable in structure.buffers.tensors]
        # Shards of each kind of buffer under each strategy of its variable.
        self._shards = [
            problem.spaces[variable].shards(tensor)
            for tensor, variable in structure.buffers.tensors
        ]

    def profile(self, assignment: Sequence[int]) -> Array:
        """Bytes in use at each position under an assignment [B], [num times]."""
        start, end, copied = self._copies.intervals(assignment)
        timeline = self._timeline(self.local_bytes(assignment))
        return timeline + self._summed(start, end, copied) + self._buffers.fixed

    def local_bytes(self, assignment: Sequence[int]) -> Array:
        """Size of one device's shard of each buffer under an assignment [B], [n]."""
        shards = np.array(
            [
                counts[assignment[variable]]
                for counts, variable in zip(
                    self._shards, self._kind_variable, strict=True
                )
            ]
        )
        local: Array = self._buffers.bytes_ / shards[self._buffers.kind]
        return local

    def held(self, assignment: Sequence[int], time: int) -> list[tuple[int, float]]:
        """Values that exist at a position, with the bytes that a device holds [B]."""
        local = self.local_bytes(assignment)
        values = self._buffers.value
        return [(int(values[at]), float(local[at])) for at in self._live(time)]

    @property
    def fixed(self) -> float:
        """Bytes that no variable decides, at any time [B]."""
        return self._buffers.fixed

    def terms(self, assignment: Sequence[int], time: int) -> Iterator[Term]:
        """What a device holds at a position under an assignment."""
        local = self.local_bytes(assignment)
        for at in self._live(time):
            variable = self._kind_variable[self._buffers.kind[at]]
            yield Term(float(local[at]), (variable,), is_copy=False)
        for bytes_, variables in self._copies.held(assignment, time):
            yield Term(bytes_, variables, is_copy=True)

    def least_profile(self) -> Array:
        """Bytes in use at each position if each tensor were cut most [B]."""
        shards = np.array([counts.max() for counts in self._shards])
        return self._timeline(self._buffers.bytes_ / shards[self._buffers.kind]) + (
            self._buffers.fixed
        )

    def priced(
        self, network: Network, prices: Mapping[int, float], *, spanning: bool
    ) -> Network:
        """A network with what is in memory at some times priced into its costs.

        Args:
            network: Of the problem.
            prices: Position to the price of a byte in use there.
            spanning: Whether to price copies that are read before and after such a
                time too, which exist only if both readers want the same.
        """
        if not prices:
            return network
        used = replace(network, usages=self.usages(list(prices)))
        buffers = used.priced(np.array(list(prices.values())))
        costs = CostSums(buffers.unary, buffers.binary)
        for i, j, table in self._copies.priced(prices, spanning=spanning):
            costs.add_pairs(i, j, table)
        return replace(network, unary=tuple(costs.unary), binary=costs.binary)

    def usages(self, times: Sequence[int]) -> tuple[Array, ...]:
        """Usage of each value of each variable at these times [B]."""
        buffers = self._buffers
        live = np.stack(
            [(buffers.start <= time) & (time <= buffers.end) for time in times], axis=1
        )
        held = np.zeros((len(self._shards), len(times)))
        np.add.at(held, buffers.kind, live * buffers.bytes_[:, None])
        usages = [np.zeros((len(space), len(times))) for space in self._spaces]
        for kind, counts in enumerate(self._shards):
            usages[self._kind_variable[kind]] += held[kind] / counts[:, None]
        return tuple(usages)

    def copied(self, time: int) -> tuple[Copied, ...]:
        """The copies that may be in use at a position, and when they are."""
        return self._copies.copied(time)

    def _live(self, time: int) -> NDArray[np.intp]:
        """Buffers that exist at a position."""
        buffers = self._buffers
        return np.flatnonzero((buffers.start <= time) & (time <= buffers.end))

    def _timeline(self, local: Array) -> Array:
        return self._summed(self._buffers.start, self._buffers.end, local)

    def _summed(
        self, start: NDArray[np.int64], end: NDArray[np.int64], bytes_: Array
    ) -> Array:
        """Sum at each position of what exists from `start` to `end`."""
        changes = np.zeros(self._buffers.num_times + 1)
        np.add.at(changes, start, bytes_)
        np.add.at(changes, end + 1, -bytes_)
        timeline: Array = np.cumsum(changes)[:-1]
        return timeline
