"""What it costs that groups read each other's tensors: resharding, once for each copy.

A tensor that one kind of link reads is a binary cost of the two variables. Where
several read it, a copy in one sharding serves all of them that want it: what only one
of them can want stays binary, the rest is a shared cost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.groups import GroupTensor
from tepdist.cost.pricing import Pricing
from tepdist.search.clock import TimeIsOver
from tepdist.search.network import CostSums, Network, unlimited
from tepdist.search.shared import Array, Choice, Shared
from tepdist.search.strategies import Space
from tepdist.search.structure import Fan, LinkKind, Structure
from tepdist.sharding import Sharding


@dataclass(frozen=True, slots=True)
class _Paid:
    """What the values read by some kinds of links cost, whichever variables decide.

    Attributes:
        rows: Row of the shared table that each value of the payer takes.
        readers: For each reader that differs, its first kind among those of the fan,
            and the column that each of its values takes.
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
        self._structure = structure
        self._pricing = pricing
        self._spaces = spaces
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
        for fan in self._structure.fans:
            if out_of_time():
                raise TimeIsOver
            found.append(self._add(fan, costs))
        binary = {pair: table for pair, table in costs.binary.items() if table.any()}
        shared = tuple(shared for shared in found if shared is not None)
        return unlimited(costs.unary, binary, (*shared, *also))

    def _add(self, fan: Fan, costs: CostSums) -> Shared | None:
        """Adds what readers pay for themselves; what they share, if they do."""
        kinds = [self._structure.kinds[kind] for kind in fan.kinds]
        key = self._key(fan, kinds)
        if key not in self._known:
            self._known[key] = self._paid(fan, kinds)
        paid = self._known[key]
        payer = kinds[0].source
        for (at, _), own in zip(paid.readers, paid.own, strict=True):
            costs.add_pairs(payer, kinds[at].target, own)
        if paid.shared is None:
            return None
        readers = (Choice(kinds[at].target, columns) for at, columns in paid.readers)
        return Shared(Choice(payer, paid.rows), tuple(readers), paid.shared)

    def _key(self, fan: Fan, kinds: Sequence[LinkKind]) -> object:
        """Equal for fans that cost the same, but for which variables decide."""
        local: dict[int, int] = {kinds[0].source: 0}
        written, _ = link_tensors(self._structure, kinds[0])
        program = self._structure.program
        value = program.values[written.value]
        parts: list[object] = [
            fan.count * kinds[0].trips,
            self._pricing.resharded_bytes(value, program),
            self._spaces[kinds[0].source],
            (written.dims, written.reduced),
        ]
        for kind in kinds:
            _, read = link_tensors(self._structure, kind)
            number = local.setdefault(kind.target, len(local))
            space = self._spaces[kind.target]
            parts.append((number, space, read.dims, read.reduced))
        return tuple(parts)

    def _paid(self, fan: Fan, kinds: Sequence[LinkKind]) -> _Paid:
        written, _ = link_tensors(self._structure, kinds[0])
        sources, rows = self._spaces[kinds[0].source].lies(written)
        readers, targets = self._read(kinds)
        program = self._structure.program
        value = program.values[written.value]
        bytes_ = self._pricing.resharded_bytes(value, program)
        table = self._pricing.resharding_table(bytes_, sources, targets)
        table = table * (fan.count * kinds[0].trips)
        taken = np.zeros(len(targets), np.intp)
        for _, columns in readers:
            takes = np.zeros(len(targets), np.bool_)
            takes[columns] = True
            taken += takes
        is_shared = (taken > 1) & table.any(axis=0)
        own = np.where(is_shared, 0.0, table)[rows]
        # What is not shared becomes column 0, which is free.
        numbers = np.where(is_shared, np.cumsum(is_shared), 0)
        free = np.zeros((len(table), 1))
        return _Paid(
            rows=rows,
            readers=tuple((at, numbers[columns]) for at, columns in readers),
            own=tuple(own[:, columns] for _, columns in readers),
            shared=np.concatenate([free, table[:, is_shared]], axis=1)
            if is_shared.any()
            else None,
        )

    def _read(
        self, kinds: Sequence[LinkKind]
    ) -> tuple[list[tuple[int, NDArray[np.intp]]], tuple[Sharding, ...]]:
        """Readers that differ, as positions and columns; all shardings wanted."""
        numbers: dict[Sharding, int] = {}
        readers: dict[tuple[int, bytes], tuple[int, NDArray[np.intp]]] = {}
        for at, kind in enumerate(kinds):
            _, read = link_tensors(self._structure, kind)
            shardings, index = self._spaces[kind.target].lies(read)
            found = [numbers.setdefault(wanted, len(numbers)) for wanted in shardings]
            columns: NDArray[np.intp] = np.array(found, np.intp)[index]
            readers.setdefault((kind.target, columns.tobytes()), (at, columns))
        return list(readers.values()), tuple(numbers)


def link_tensors(
    structure: Structure, kind: LinkKind
) -> tuple[GroupTensor, GroupTensor]:
    """The tensor of a kind of links as it is written and as it is read."""
    first = kind.first
    return (
        structure.groups[first.source].outputs[first.output],
        structure.groups[first.target].inputs[first.input],
    )
