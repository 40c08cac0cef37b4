"""What it costs that groups read each other's tensors: resharding, once for each copy.

A tensor that one kind of link reads is a binary cost of the two variables. Where
several read it, a copy in one sharding serves all of them that want it: what only one
of them can want stays binary, the rest is a shared cost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.nodes import Dims
from tepdist.cost.pricing import Pricing, Reshardings, reshardings
from tepdist.search.arrangements import Arrangements
from tepdist.search.clock import TimeIsOver
from tepdist.search.links import Fan
from tepdist.search.network import CostSums, Network, unlimited
from tepdist.search.shared import Array, Choice, Shared
from tepdist.search.strategies import Space
from tepdist.search.structure import Structure
from tepdist.sharding import Sharding

_View = tuple[Arrangements, Dims, bool]  # what a group makes of a tensor


@dataclass(frozen=True, slots=True)
class _Wants:
    """What readers want of a value, on any mesh with these strategies.

    Attributes:
        rows: Row of a table that each value of the payer takes.
        readers: For each reader that differs, its position, and the column that each
            of its values takes.
        reshardings: Of rows and columns.
        is_contested: Whether more than one reader can take each column.
    """

    rows: NDArray[np.intp]
    readers: tuple[tuple[int, NDArray[np.intp]], ...]
    reshardings: Reshardings
    is_contested: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Paid:
    """What a reading costs, whichever variables decide.

    Attributes:
        rows: Row of the shared table that each value of the payer takes.
        readers: For each reader that differs, its position, and the column that each
            of its values takes.
        own: What each reader pays for itself, [values of payer, values of reader].
        shared: Cost of each column in each row; None if nothing is shared.
    """

    rows: NDArray[np.intp]
    readers: tuple[tuple[int, NDArray[np.intp]], ...]
    own: tuple[Array, ...]
    shared: Array | None


class Reads:
    """Costs of all reads of one problem."""

    def __init__(
        self, structure: Structure, pricing: Pricing, spaces: Sequence[Space]
    ) -> None:
        self._program = structure.program
        self._fans = structure.fans
        self._pricing = pricing
        self._arrangements = [space.arrangements for space in spaces]
        # Layers are alike, and so is what is read in them.
        self._known: dict[object, _Paid] = {}

    def network(
        self,
        unary: Sequence[Array],
        also: Sequence[Shared],
        *,
        out_of_time: Callable[[], bool],
    ) -> Network:
        """The network of these unary costs and of all reads.

        Args:
            unary: Cost of each strategy of each variable, reads left aside [s].
            also: What else several pay for together.
            out_of_time: Asked between reads.

        Raises:
            TimeIsOver: if the time is over before it is built.
        """
        costs = CostSums(unary)
        found = []
        for fan in self._fans:
            if out_of_time():
                raise TimeIsOver
            found.append(self._add(fan, costs))
        binary = {pair: table for pair, table in costs.binary.items() if table.any()}
        shared = tuple(shared for shared in found if shared is not None)
        return unlimited(costs.unary, binary, (*shared, *also))

    def _add(self, fan: Fan, costs: CostSums) -> Shared | None:
        """Adds what readers pay for themselves; what they share, if they do."""
        reading, payer, targets = fan.reading, fan.source, fan.targets
        known = self._arrangements
        key = (reading, known[payer], *[known[target] for target in targets])
        if key not in self._known:
            self._known[key] = self._paid(fan)
        paid = self._known[key]
        for (at, _), own in zip(paid.readers, paid.own, strict=True):
            costs.add_pairs(payer, targets[at], own)
        if paid.shared is None:
            return None
        readers = (Choice(targets[at], columns) for at, columns in paid.readers)
        return Shared(Choice(payer, paid.rows), tuple(readers), paid.shared)

    def _paid(self, fan: Fan) -> _Paid:
        reading = fan.reading
        wants = self._wants(fan)
        table = self._resharding_table(fan, wants.reshardings) * reading.times
        rows, readers = wants.rows, wants.readers
        is_shared = wants.is_contested & table.any(axis=0)
        own = table[rows]
        if not is_shared.any():
            paid = tuple(own.take(columns, axis=1) for _, columns in readers)
            return _Paid(rows, readers, paid, None)
        own = np.where(is_shared, 0.0, own)
        # What is not shared becomes column 0, which is free.
        numbers = np.where(is_shared, np.cumsum(is_shared), 0)
        free = np.zeros((len(table), 1))
        return _Paid(
            rows=rows,
            readers=tuple((at, numbers[columns]) for at, columns in readers),
            own=tuple(own.take(columns, axis=1) for _, columns in readers),
            shared=np.concatenate([free, table[:, is_shared]], axis=1),
        )

    def _resharding_table(self, fan: Fan, wanted: Reshardings) -> Array:
        """Time of each resharding of what is read [s], [sources, targets]."""
        pricing, value = self._pricing, fan.reading.value
        known = [self._arrangements[end] for end in (fan.source, *fan.targets)]
        if all(arrangements.is_even for arrangements in known):
            bytes_ = pricing.resharded_bytes(value, self._program)
            return pricing.resharding_table(bytes_, wanted)
        itemsize = pricing.resharded_itemsize(value, self._program)
        return pricing.uneven_table(value.shape, itemsize, wanted)

    def _wants(self, fan: Fan) -> _Wants:
        known, reading = self._arrangements, fan.reading
        written = reading.written
        return _find_wants(
            (known[fan.source], written.dims, written.reduced),
            tuple(
                (number, (known[target], read.dims, read.reduced))
                for target, (number, read) in zip(
                    fan.targets, reading.readers, strict=True
                )
            ),
        )


@lru_cache(maxsize=1 << 12)
def _find_wants(written: _View, read: tuple[tuple[int, _View], ...]) -> _Wants:
    """What readers want.

    Args:
        written: The value as the payer's group sees it.
        read: Of each reader the number of its variable, and the value as its group
            sees it.
    """
    sources, rows = _lies(written)
    numbers: dict[Sharding, int] = {}
    readers: dict[tuple[int, bytes], tuple[int, NDArray[np.intp]]] = {}
    for at, (variable, view) in enumerate(read):
        shardings, index = _lies(view)
        found = [numbers.setdefault(wanted, len(numbers)) for wanted in shardings]
        columns: NDArray[np.intp] = np.array(found, np.intp)[index]
        readers.setdefault((variable, columns.tobytes()), (at, columns))
    taken = np.zeros(len(numbers), np.intp)
    for _, columns in readers.values():
        takes = np.zeros(len(numbers), np.bool_)
        takes[columns] = True
        taken += takes
    return _Wants(
        rows,
        tuple(readers.values()),
        reshardings(sources, tuple(numbers)),
        taken > 1,
    )


def _lies(view: _View) -> tuple[tuple[Sharding, ...], NDArray[np.intp]]:
    arrangements, dims, reduced = view
    return arrangements.lies(dims, reduced=reduced)
