"""Memory of resharded copies: what a device holds besides the values themselves.

A value that is read in a sharding that needs communication exists twice while it is
read: the copies that several readers share exist from the first to the last.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.groups import GroupTensor
from tepdist.analysis.liveness import Liveness
from tepdist.search.network import Array
from tepdist.search.problem import Problem, Structure, lies
from tepdist.sharding import Sharding


class Copies:
    """Copies of one problem, as flat tables over all links."""

    def __init__(
        self, structure: Structure, problem: Problem, liveness: Liveness
    ) -> None:
        self._ids: dict[Sharding, int] = {}
        tables: dict[tuple[int, int, int, int], int] = {}
        flat_bytes: list[Array] = []
        flat_ids: list[NDArray[np.int64]] = []
        size = 0
        rows = []
        for link in structure.links:
            i, j = problem.variable_of[link.source], problem.variable_of[link.target]
            key = (i, link.output, j, link.input)
            read = structure.groups[link.target].inputs[link.input]
            if key not in tables:
                written = structure.groups[link.source].outputs[link.output]
                bytes_, ids = self._table(structure, problem, (i, written), (j, read))
                tables[key] = size
                size += bytes_.size
                flat_bytes.append(bytes_.ravel())
                flat_ids.append(ids.ravel())
            member = structure.groups[link.target].members[read.member]
            op = structure.nodes[member.node].op
            if op is None:
                continue  # what replaces a state argument, or enters a loop
            position = int(liveness.position[op])
            width = len(problem.strategies[j])
            rows.append((tables[key], i, j, width, read.value, position))
        table = np.array(rows, np.int64).reshape(-1, 6)
        self._offset, self._source, self._target = table[:, 0], table[:, 1], table[:, 2]
        self._width, self._value, self._position = table[:, 3], table[:, 4], table[:, 5]
        self._bytes = np.concatenate([*flat_bytes, np.zeros(1)])
        self._sharding = np.concatenate([*flat_ids, np.zeros(1, np.int64)])

    def intervals(
        self, assignment: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """First position, last position and local bytes of each copy [n] x 3."""
        chosen = np.asarray(assignment, np.int64)
        index = (
            self._offset + chosen[self._source] * self._width + chosen[self._target]
        )
        bytes_ = self._bytes[index]
        moved = bytes_ > 0
        keys = self._value[moved] * (len(self._ids) + 1) + self._sharding[index][moved]
        unique, inverse = np.unique(keys, return_inverse=True)
        position = self._position[moved]
        start = np.full(len(unique), np.iinfo(np.int64).max)
        end = np.full(len(unique), -1, np.int64)
        local = np.zeros(len(unique))
        np.minimum.at(start, inverse, position)
        np.maximum.at(end, inverse, position)
        np.maximum.at(local, inverse, bytes_[moved])
        return start, end, local

    def _table(
        self,
        structure: Structure,
        problem: Problem,
        written: tuple[int, GroupTensor],
        read: tuple[int, GroupTensor],
    ) -> tuple[Array, NDArray[np.int64]]:
        """Local bytes and sharding of the copy for each pair of strategies."""
        mesh = problem.pricing.mesh
        sources, source_index = lies(problem.strategies[written[0]], written[1], mesh)
        targets, target_index = lies(problem.strategies[read[0]], read[1], mesh)
        total = structure.program.values[read[1].value].bytes_
        steps = problem.pricing.num_steps(sources, targets)
        local = np.array([total / target.num_shards(mesh) for target in targets])
        ids = np.array([self._ids.setdefault(t, len(self._ids)) for t in targets])
        bytes_ = np.where(steps > 0, local[None, :], 0.0)
        pairs = np.ix_(source_index, target_index)
        wide = np.broadcast_to(ids[None, :], steps.shape)
        return bytes_[pairs], wide[pairs]
