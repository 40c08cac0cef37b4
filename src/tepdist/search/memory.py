"""Memory of an assignment over time, and at the few times that the solver sees."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.liveness import Liveness
from tepdist.search.copies import Copies
from tepdist.search.network import Array
from tepdist.search.problem import Problem, Structure, shard_counts


@dataclass(frozen=True, slots=True)
class Buffers:
    """Buffers of one program, flat: one entry for each tensor of a group.

    Attributes:
        group: Group that defines it, [n].
        output: Position in the group's outputs, [n].
        value: The value itself, [n].
        bytes_: Size of the whole tensor [B], [n].
        start: First position at which it exists, [n].
        end: Last, [n].
        num_times: Number of positions.
        fixed: Bytes of buffers that belong to no group (scalars), at any time [B].
    """

    group: NDArray[np.int64]
    output: NDArray[np.int64]
    value: NDArray[np.int64]
    bytes_: Array
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    num_times: int
    fixed: float


def find_buffers(structure: Structure, liveness: Liveness) -> Buffers:
    """Every buffer that a strategy can cut."""
    rows = [
        (index, position, tensor.value)
        for index, group in enumerate(structure.groups)
        for position, tensor in enumerate(group.outputs)
        if liveness.is_buffer[tensor.value]
    ]
    table = np.array(rows, np.int64).reshape(-1, 3)
    values = structure.program.values
    grouped = {value for _, _, value in rows}
    fixed = sum(
        values[value].bytes_
        for value in structure.program.arguments
        if value not in grouped
    )
    return Buffers(
        group=table[:, 0],
        output=table[:, 1],
        value=table[:, 2],
        bytes_=np.array([values[value].bytes_ for _, _, value in rows], np.float64),
        start=liveness.start[table[:, 2]],
        end=liveness.end[table[:, 2]],
        num_times=liveness.num_times,
        fixed=float(fixed),
    )


class MemoryModel:
    """Memory of assignments of one problem."""

    def __init__(
        self,
        structure: Structure,
        problem: Problem,
        buffers: Buffers,
        liveness: Liveness,
    ) -> None:
        self._buffers = buffers
        self._copies = Copies(structure, problem, liveness)
        variable_of = np.array(problem.variable_of, np.int64)
        self._variable = variable_of[buffers.group]
        # Shards of each kind of tensor under each strategy of its variable.
        self._shards: list[Array] = []
        kinds: dict[tuple[int, int], int] = {}
        kind_of = []
        for variable, group, output in zip(
            self._variable, buffers.group, buffers.output, strict=True
        ):
            key = (int(variable), int(output))
            if key not in kinds:
                kinds[key] = len(self._shards)
                tensor = structure.groups[group].outputs[output]
                self._shards.append(
                    shard_counts(
                        problem.strategies[variable], tensor, problem.pricing.mesh
                    )
                )
            kind_of.append(kinds[key])
        self._kind = np.array(kind_of, np.int64)
        self._kind_variable = [variable for variable, _ in kinds]
        self._num_values = [len(strategies) for strategies in problem.strategies]

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
        local: Array = self._buffers.bytes_ / shards[self._kind]
        return local

    def held(self, assignment: Sequence[int], time: int) -> list[tuple[int, float]]:
        """Values that exist at a position, with the bytes that a device holds [B]."""
        buffers = self._buffers
        live = np.flatnonzero((buffers.start <= time) & (time <= buffers.end))
        local = self.local_bytes(assignment)
        return [(int(buffers.value[at]), float(local[at])) for at in live]

    def least_profile(self) -> Array:
        """Bytes in use at each position if each tensor were cut most [B]."""
        shards = np.array([counts.max() for counts in self._shards])
        return self._timeline(self._buffers.bytes_ / shards[self._kind]) + (
            self._buffers.fixed
        )

    def usages(self, times: Sequence[int]) -> tuple[Array, ...]:
        """Usage of each value of each variable at these times [B]."""
        buffers = self._buffers
        live = np.stack(
            [(buffers.start <= time) & (time <= buffers.end) for time in times], axis=1
        )
        held = np.zeros((len(self._shards), len(times)))
        np.add.at(held, self._kind, live * buffers.bytes_[:, None])
        usages = [np.zeros((count, len(times))) for count in self._num_values]
        for kind, counts in enumerate(self._shards):
            usages[self._kind_variable[kind]] += held[kind] / counts[:, None]
        return tuple(usages)

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
