"""Memory of resharded copies: what a device holds besides the values themselves.

A value that is read in a sharding that needs communication exists twice while it is
read: the copies that several readers share exist from the first to the last.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tepdist.search.problem import Problem
from tepdist.search.reads import link_tensors
from tepdist.search.shared import Array
from tepdist.search.structure import LinkKind, Structure
from tepdist.sharding import Sharding


class Copies:
    """Copies of one problem, as flat tables over all links."""

    def __init__(self, structure: Structure, problem: Problem) -> None:
        self._ids: dict[Sharding, int] = {}
        tables = [self._table(structure, problem, kind) for kind in structure.kinds]
        sizes = [bytes_.size for bytes_, _ in tables]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        links = structure.copied_links
        kind = links.kind
        source = np.array([k.source for k in structure.kinds], np.int64)
        target = np.array([k.target for k in structure.kinds], np.int64)
        widths = np.array([len(space) for space in problem.spaces], np.int64)
        self._offset, self._source, self._target = (
            offsets[kind],
            source[kind],
            target[kind],
        )
        self._width = widths[self._target]
        self._num_values = widths.tolist()
        self._value, self._position = links.value, links.position
        self._bytes = np.concatenate([*(b.ravel() for b, _ in tables), np.zeros(1)])
        self._sharding = np.concatenate(
            [*(i.ravel() for _, i in tables), np.zeros(1, np.int64)]
        )

    def intervals(
        self, assignment: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """First position, last position and local bytes of each copy [n] x 3."""
        chosen = np.asarray(assignment, np.int64)
        index = self._offset + chosen[self._source] * self._width + chosen[self._target]
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

    def held(
        self, assignment: Sequence[int], time: int
    ) -> list[tuple[float, tuple[int, ...]]]:
        """Bytes of each copy that exists at a position, and who decides about it.

        A copy exists because of one reader that comes no later and one no sooner.
        """
        chosen = np.asarray(assignment, np.int64)
        index = self._offset + chosen[self._source] * self._width + chosen[self._target]
        readers: dict[tuple[int, int], list[int]] = {}
        for link in np.flatnonzero(self._bytes[index] > 0).tolist():
            key = (int(self._value[link]), int(self._sharding[index[link]]))
            readers.setdefault(key, []).append(link)
        found = []
        for links in readers.values():
            before = [link for link in links if self._position[link] <= time]
            after = [link for link in links if self._position[link] >= time]
            if not before or not after:
                continue
            needed = (before[-1], after[0])
            deciding = {int(self._source[link]) for link in needed}
            deciding |= {int(self._target[link]) for link in needed}
            local = max(float(self._bytes[index[link]]) for link in needed)
            found.append((local, tuple(sorted(deciding))))
        return found

    def read_at(self, time: int, *, spanning: bool) -> Iterator[tuple[int, int, Array]]:
        """Copies at a position: who decides, and bytes for each pair of strategies.

        Those that are read there, of several reads of one value one: no more than
        exist.

        Args:
            time: Position.
            spanning: Whether those that are read before and after count too, half
                for the last read before and half for the first after.
        """
        shares: dict[int, float] = {}
        here = np.flatnonzero(self._position == time)
        read, first = np.unique(self._value[here], return_index=True)
        shares.update(dict.fromkeys(here[first].tolist(), 1.0))
        if spanning:
            before = self._nearest(self._position < time, sign=-1)
            after = self._nearest(self._position > time, sign=1)
            for value in before.keys() & after.keys() - set(read.tolist()):
                shares.update({before[value]: 0.5, after[value]: 0.5})
        for link, share in shares.items():
            source, target = int(self._source[link]), int(self._target[link])
            begin, width = int(self._offset[link]), int(self._width[link])
            end = begin + width * self._num_values[source]
            table = self._bytes[begin:end].reshape(-1, width)
            if table.any():
                yield source, target, share * table

    def _nearest(self, among: NDArray[np.bool_], *, sign: int) -> dict[int, int]:
        """For each value its read of least position, or of most if the sign is -1."""
        links = np.flatnonzero(among)
        links = links[np.argsort(sign * self._position[links], kind="stable")]
        values, first = np.unique(self._value[links], return_index=True)
        return dict(zip(values.tolist(), links[first].tolist(), strict=True))

    def _table(
        self, structure: Structure, problem: Problem, kind: LinkKind
    ) -> tuple[Array, NDArray[np.int64]]:
        """Local bytes and sharding of the copy for each pair of strategies."""
        written, read = link_tensors(structure, kind)
        sources, source_index = problem.spaces[kind.source].lies(written)
        targets, target_index = problem.spaces[kind.target].lies(read)
        total = structure.program.values[read.value].bytes_
        mesh = problem.pricing.mesh
        steps = problem.pricing.num_steps(sources, targets)
        local = np.array([total / target.num_shards(mesh) for target in targets])
        ids = np.array([self._ids.setdefault(t, len(self._ids)) for t in targets])
        bytes_ = np.where(steps > 0, local[None, :], 0.0)
        pairs = np.ix_(source_index, target_index)
        wide = np.broadcast_to(ids[None, :], steps.shape)
        return bytes_[pairs], wide[pairs]
