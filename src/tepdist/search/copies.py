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


class _Pairs:
    """The copies that one kind of link makes: compact, by pairs of shardings.

    Attributes:
        source: Variable of the groups that define the tensor.
        target: Variable of the groups that read it.
    """

    def __init__(self, structure: Structure, problem: Problem, kind: LinkKind) -> None:
        written, read = link_tensors(structure, kind)
        self.source, self.target = kind.source, kind.target
        self._sources, self._rows = problem.spaces[kind.source].lies(written)
        self._targets, self._columns = problem.spaces[kind.target].lies(read)
        self._pricing = problem.pricing
        self._bytes = structure.program.values[read.value].bytes_

    def chosen(self, assignment: Sequence[int]) -> tuple[float, Sharding]:
        """Local bytes of the copy, 0 if there is none, and its sharding."""
        source = self._sources[self._rows[assignment[self.source]]]
        target = self._targets[self._columns[assignment[self.target]]]
        if source is target or not self._pricing.communicates(source, target):
            return 0.0, target
        return self._local(target), target

    def _local(self, target: Sharding) -> float:
        return self._bytes / target.num_shards(self._pricing.mesh)

    def table(self) -> Array:
        """Local bytes for each pair of strategies."""
        steps = self._pricing.num_steps(self._sources, self._targets)
        local = np.array([self._local(target) for target in self._targets])
        bytes_: Array = np.where(steps > 0, local, 0.0)
        return bytes_[np.ix_(self._rows, self._columns)]


class Copies:
    """Copies of one problem, as flat arrays over all links."""

    def __init__(self, structure: Structure, problem: Problem) -> None:
        self._ids: dict[Sharding, int] = {}
        self._pairs = [_Pairs(structure, problem, kind) for kind in structure.kinds]
        links = structure.copied_links
        self._kind = links.kind
        self._value, self._position = links.value, links.position

    def _chosen(self, assignment: Sequence[int]) -> tuple[Array, NDArray[np.int64]]:
        """Local bytes and sharding of the copy of each link, [links] x 2."""
        pairs = [pair.chosen(assignment) for pair in self._pairs]
        bytes_ = np.array([local for local, _ in pairs])
        ids = [self._ids.setdefault(target, len(self._ids)) for _, target in pairs]
        return bytes_[self._kind], np.array(ids, np.int64)[self._kind]

    def intervals(
        self, assignment: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """First position, last position and local bytes of each copy [n] x 3."""
        bytes_, shardings = self._chosen(assignment)
        moved = bytes_ > 0
        keys = self._value[moved] * (len(self._ids) + 1) + shardings[moved]
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
        bytes_, shardings = self._chosen(assignment)
        readers: dict[tuple[int, int], list[int]] = {}
        for link in np.flatnonzero(bytes_ > 0).tolist():
            key = (int(self._value[link]), int(shardings[link]))
            readers.setdefault(key, []).append(link)
        found = []
        for links in readers.values():
            before = [link for link in links if self._position[link] <= time]
            after = [link for link in links if self._position[link] >= time]
            if not before or not after:
                continue
            needed = (before[-1], after[0])
            pairs = [self._pairs[self._kind[link]] for link in needed]
            deciding = {pair.source for pair in pairs} | {p.target for p in pairs}
            local = max(float(bytes_[link]) for link in needed)
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
            pair = self._pairs[self._kind[link]]
            table = pair.table()
            if table.any():
                yield pair.source, pair.target, share * table

    def _nearest(self, among: NDArray[np.bool_], *, sign: int) -> dict[int, int]:
        """For each value its read of least position, or of most if the sign is -1."""
        links = np.flatnonzero(among)
        links = links[np.argsort(sign * self._position[links], kind="stable")]
        values, first = np.unique(self._value[links], return_index=True)
        return dict(zip(values.tolist(), links[first].tolist(), strict=True))
