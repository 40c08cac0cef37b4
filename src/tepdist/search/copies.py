"""Memory of resharded copies: what a device holds besides the values themselves.

A value that is read in a sharding that needs communication exists twice while it is
read: the copies that several readers share exist from the first to the last.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tepdist.cost.pricing import Pricing, Reshardings, reshardings
from tepdist.program.graph import Value
from tepdist.search.links import LinkKind, link_tensors
from tepdist.search.problem import Problem
from tepdist.search.shared import Array
from tepdist.search.structure import Structure
from tepdist.sharding import Sharding


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The copies that one kind of link makes: compact, by pairs of shardings.

    Attributes:
        source: Variable of the groups that define the tensor.
        target: Variable of the groups that read it.
        rows: Row of each value of the source, [values of source].
        columns: Column of each value of the target, [values of target].
        bytes_: Local bytes of the copy, 0 if there is none [B], [rows, columns].
        shardings: Of the copy, as numbers, [columns].
    """

    source: int
    target: int
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    bytes_: Array
    shardings: NDArray[np.intp]

    def table(self) -> Array:
        """Local bytes for each pair of strategies [B]."""
        return self.bytes_[np.ix_(self.rows, self.columns)]


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """One sharding that two variables may bring tensors into.

    Compared by identity.

    Attributes:
        source: Variable of those who write them.
        target: Variable of those who read them.
        rows: What each value of the source means, [values of source].
        columns: What each value of the target means, [values of target].
        is_made: Whether a copy in that sharding is made, [rows, columns].
    """

    source: int
    target: int
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    is_made: NDArray[np.bool_]

    def made(self) -> NDArray[np.bool_]:
        """Whether the copy is made, [values of source, values of target]."""
        return self.is_made[np.ix_(self.rows, self.columns)]

    def only(self, sources: NDArray[np.intp], targets: NDArray[np.intp]) -> "Move":
        """The same among some values of the source and of the target."""
        rows, columns = self.rows[sources], self.columns[targets]
        return Move(self.source, self.target, rows, columns, self.is_made)


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that is in use at a time if it is made before and read after.

    Attributes:
        bytes_: Of it on a device [B].
        before: One of these makes it, at that time or before.
        after: One of these reads it, at that time or after.
    """

    bytes_: float
    before: tuple[Move, ...]
    after: tuple[Move, ...]


class _Numbering:
    """Shardings as numbers, and which pairs of them a copy lies between.

    Lists of shardings are known by identity: spaces give the same ones again, and to
    hash them is slow.
    """

    def __init__(self, pricing: Pricing) -> None:
        self._pricing = pricing
        self._numbers: dict[Sharding, int] = {}
        self._of: dict[int, tuple[object, NDArray[np.intp]]] = {}
        self._shares: dict[tuple[int, int], tuple[object, Array]] = {}

    def numbers(self, shardings: tuple[Sharding, ...]) -> NDArray[np.intp]:
        """Number of each sharding."""
        if id(shardings) not in self._of:
            numbers = self._numbers
            found = [numbers.setdefault(s, len(numbers)) for s in shardings]
            self._of[id(shardings)] = (shardings, np.array(found, np.intp))
        return self._of[id(shardings)][1]

    def shares(
        self, sources: tuple[Sharding, ...], targets: tuple[Sharding, ...]
    ) -> Array:
        """Share of a tensor that its copy takes on a device, [sources, targets]."""
        key = (id(sources), id(targets))
        if key not in self._shares:
            mesh = self._pricing.mesh
            steps = self._pricing.num_steps(sources, targets)
            local = np.array([1.0 / target.num_shards(mesh) for target in targets])
            table: Array = np.where(steps > 0, local, 0.0)
            self._shares[key] = ((sources, targets), table)
        return self._shares[key][1]


class Copies:
    """Copies of one problem, as flat arrays over all links."""

    def __init__(self, structure: Structure, problem: Problem) -> None:
        self._structure, self._problem = structure, problem
        links = structure.copied_links
        self._kind = links.kind
        self._value, self._position = links.value, links.position
        self._known: dict[tuple[int, bool], dict[int, float]] = {}
        self._known_copied: dict[int, tuple[Copied, ...]] = {}
        self._known_moves: dict[tuple[int, int], Move | None] = {}

    @cached_property
    def _pairs(self) -> list[_Pairs]:
        numbering = _Numbering(self._problem.pricing)
        return [
            _pairs(self._structure, self._problem, kind, numbering=numbering)
            for kind in self._structure.kinds
        ]

    @cached_property
    def _flat(self) -> "_Flat":
        return _Flat.of(self._pairs)

    def _chosen(self, assignment: Sequence[int]) -> tuple[Array, NDArray[np.intp]]:
        """Local bytes and sharding of the copy of each link, [links] x 2."""
        bytes_, shardings = self._flat.chosen(np.asarray(assignment, np.intp))
        return bytes_[self._kind], shardings[self._kind]

    def intervals(
        self, assignment: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """First position, last position and local bytes of each copy [n] x 3."""
        bytes_, shardings = self._chosen(assignment)
        moved = bytes_ > 0
        keys = self._value[moved] * self._flat.num_shardings + shardings[moved]
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

    def copied(self, time: int) -> tuple[Copied, ...]:
        """What may be copied at a position; copies that are decided alike are one."""
        if time not in self._known_copied:
            self._known_copied[time] = tuple(self._copied(time))
        return self._known_copied[time]

    def _copied(self, time: int) -> Iterator[Copied]:
        early, late = self._position <= time, self._position >= time
        both = np.intersect1d(self._value[early], self._value[late])
        readers: dict[int, tuple[set[int], set[int]]] = {}
        for link in np.flatnonzero(np.isin(self._value, both)).tolist():
            found = readers.setdefault(int(self._value[link]), (set(), set()))
            for kinds, reads in zip(found, (early, late), strict=True):
                if reads[link]:
                    kinds.add(int(self._kind[link]))
        sums: dict[tuple[tuple[Move, ...], tuple[Move, ...]], float] = {}
        for before, after in readers.values():
            for sharding, bytes_ in self._targets(before | after):
                key = (self._moves(before, sharding), self._moves(after, sharding))
                if all(key):
                    sums[key] = sums.get(key, 0.0) + bytes_
        for (makers, users), bytes_ in sums.items():
            yield Copied(bytes_, makers, users)

    def _targets(self, kinds: Iterable[int]) -> Iterator[tuple[int, float]]:
        """Shardings that some kinds of links make copies in, and their bytes."""
        found: dict[int, float] = {}
        for kind in sorted(kinds):
            pair = self._pairs[kind]
            most = pair.bytes_.max(axis=0, initial=0.0)
            for sharding, bytes_ in zip(pair.shardings.tolist(), most, strict=True):
                if bytes_ > 0:
                    found[sharding] = max(found.get(sharding, 0.0), float(bytes_))
        yield from found.items()

    def _moves(self, kinds: Iterable[int], sharding: int) -> tuple[Move, ...]:
        """How some kinds of links make a copy in one sharding."""
        moves = (self._move(kind, sharding) for kind in sorted(kinds))
        return tuple(move for move in moves if move is not None)

    def _move(self, kind: int, sharding: int) -> Move | None:
        if (kind, sharding) not in self._known_moves:
            pair = self._pairs[kind]
            is_made = (pair.bytes_ > 0) & (pair.shardings == sharding)
            move = None
            if is_made.any():
                move = Move(pair.source, pair.target, pair.rows, pair.columns, is_made)
            self._known_moves[kind, sharding] = move
        return self._known_moves[kind, sharding]

    def priced(
        self, prices: Mapping[int, float], *, spanning: bool
    ) -> Iterator[tuple[int, int, Array]]:
        """What copies cost: who decides, and the cost of each pair of strategies.

        Args:
            prices: Position to the price of a byte in use there.
            spanning: Whether those that are read before and after count too, half
                for the last read before and half for the first after.
        """
        weights: dict[int, float] = {}
        for time, price in prices.items():
            for kind, share in self._shares(time, spanning=spanning).items():
                weights[kind] = weights.get(kind, 0.0) + price * share
        for kind, weight in weights.items():
            pair = self._pairs[kind]
            if pair.bytes_.any():
                yield pair.source, pair.target, weight * pair.table()

    def _shares(self, time: int, *, spanning: bool) -> dict[int, float]:
        """Kinds of links to how many of their copies are in use at a position.

        Those that are read there, of several reads of one value one: no more than
        exist.
        """
        known = self._known.get((time, spanning))
        if known is not None:
            return known
        shares: dict[int, float] = {}
        here = np.flatnonzero(self._position == time)
        read, first = np.unique(self._value[here], return_index=True)
        shares.update(dict.fromkeys(here[first].tolist(), 1.0))
        if spanning:
            before = self._nearest(self._position < time, sign=-1)
            after = self._nearest(self._position > time, sign=1)
            for value in before.keys() & after.keys() - set(read.tolist()):
                shares.update({before[value]: 0.5, after[value]: 0.5})
        found: dict[int, float] = {}
        for link, share in shares.items():
            kind = int(self._kind[link])
            found[kind] = found.get(kind, 0.0) + share
        self._known[time, spanning] = found
        return found

    def _nearest(self, among: NDArray[np.bool_], *, sign: int) -> dict[int, int]:
        """For each value its read of least position, or of most if the sign is -1."""
        links = np.flatnonzero(among)
        links = links[np.argsort(sign * self._position[links], kind="stable")]
        values, first = np.unique(self._value[links], return_index=True)
        return dict(zip(values.tolist(), links[first].tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class _Flat:
    """The tables of all kinds of links one after the other.

    Attributes:
        sources: Variable of the source of each kind, [kinds]; likewise `targets`.
        row_starts: Of each kind in `rows`, [kinds]; likewise `column_starts`.
        rows: Row of each value of each source; likewise `columns`.
        starts: Of each kind in `bytes_`, [kinds].
        widths: Columns of each kind, [kinds].
        bytes_: Local bytes of copies [B].
        sharding_starts: Of each kind in `shardings`, [kinds].
        shardings: Of the copies, by column.
    """

    sources: NDArray[np.intp]
    targets: NDArray[np.intp]
    row_starts: NDArray[np.intp]
    column_starts: NDArray[np.intp]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    starts: NDArray[np.intp]
    widths: NDArray[np.intp]
    bytes_: Array
    sharding_starts: NDArray[np.intp]
    shardings: NDArray[np.intp]

    @staticmethod
    def of(pairs: Sequence[_Pairs]) -> "_Flat":
        """The tables of some kinds."""
        return _Flat(
            sources=np.array([pair.source for pair in pairs], np.intp),
            targets=np.array([pair.target for pair in pairs], np.intp),
            row_starts=_starts([len(pair.rows) for pair in pairs]),
            column_starts=_starts([len(pair.columns) for pair in pairs]),
            rows=_joined([pair.rows for pair in pairs]),
            columns=_joined([pair.columns for pair in pairs]),
            starts=_starts([pair.bytes_.size for pair in pairs]),
            widths=np.array([pair.bytes_.shape[1] for pair in pairs], np.intp),
            bytes_=np.concatenate([np.zeros(0), *(p.bytes_.ravel() for p in pairs)]),
            sharding_starts=_starts([len(pair.shardings) for pair in pairs]),
            shardings=_joined([pair.shardings for pair in pairs]),
        )

    @property
    def num_shardings(self) -> int:
        return int(self.shardings.max(initial=0)) + 1

    def chosen(self, assignment: NDArray[np.intp]) -> tuple[Array, NDArray[np.intp]]:
        """Local bytes and sharding of the copy of each kind, [kinds] x 2."""
        row = self.rows[self.row_starts + assignment[self.sources]]
        column = self.columns[self.column_starts + assignment[self.targets]]
        return (
            self.bytes_[self.starts + row * self.widths + column],
            self.shardings[self.sharding_starts + column],
        )


def _starts(sizes: Sequence[int]) -> NDArray[np.intp]:
    return np.cumsum([0, *sizes], dtype=np.intp)[:-1]


def _joined(arrays: Sequence[NDArray[np.intp]]) -> NDArray[np.intp]:
    return np.concatenate([np.zeros(0, np.intp), *arrays])


def _pairs(
    structure: Structure, problem: Problem, kind: LinkKind, *, numbering: _Numbering
) -> _Pairs:
    written, read = link_tensors(structure.groups, kind)
    ends = [problem.spaces[end] for end in (kind.source, kind.target)]
    sources, rows = ends[0].lies(written)
    targets, columns = ends[1].lies(read)
    value = structure.program.values[read.value]
    bytes_ = value.bytes_ * numbering.shares(sources, targets)
    if value.bytes_ and not all(space.arrangements.is_even for space in ends):
        wanted = reshardings(sources, targets)
        _mend_uneven(bytes_, value, wanted, pricing=problem.pricing)
    return _Pairs(
        source=kind.source,
        target=kind.target,
        rows=rows,
        columns=columns,
        bytes_=bytes_,
        shardings=numbering.numbers(targets),
    )


def _mend_uneven(
    bytes_: Array, value: Value, wanted: Reshardings, *, pricing: Pricing
) -> None:
    """Corrects what copies take that are from or to unequal parts, in place.

    Args:
        bytes_: Local bytes of the copy [B], [sources, targets].
        value: That is copied.
        wanted: Reshardings that make the copies.
        pricing: Of the mesh.
    """
    for row, column, steps in pricing.uneven_steps(value.shape, wanted):
        local = wanted.targets[column].shard_elements(value.shape, pricing.mesh)
        share = local / value.num_elements
        bytes_[row, column] = value.bytes_ * share if steps else 0.0
