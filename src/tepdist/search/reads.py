"""What it costs that groups read each other's tensors: resharding, once for each copy.

A tensor that one kind of link reads is a binary cost of the two variables. Where
several read it, a copy in one sharding serves all of them that want it: what only one
of them can want stays binary, the rest is a shared cost.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.groups import GroupTensor
from tepdist.cost.pricing import Pricing
from tepdist.search.network import CostSums, Network, unlimited
from tepdist.search.shared import Array, Choice, Shared
from tepdist.search.strategies import Space
from tepdist.search.structure import Fan, LinkKind, Structure
from tepdist.sharding import Sharding


class Reads:
    """Costs of all reads of one problem."""

    def __init__(
        self, structure: Structure, pricing: Pricing, spaces: Sequence[Space]
    ) -> None:
        self._structure = structure
        self._pricing = pricing
        self._spaces = spaces

    def network(self, unary: Sequence[Array]) -> Network:
        """The network of these unary costs and of all reads.

        Args:
            unary: Cost of each strategy of each variable, reads left aside [s].
        """
        costs = CostSums(unary)
        found = [self._add(fan, costs) for fan in self._structure.fans]
        binary = {pair: table for pair, table in costs.binary.items() if table.any()}
        shared = tuple(shared for shared in found if shared is not None)
        return unlimited(costs.unary, binary, shared)

    def _add(self, fan: Fan, costs: CostSums) -> Shared | None:
        """Adds what readers pay for themselves; what they share, if they do."""
        kinds = [self._structure.kinds[kind] for kind in fan.kinds]
        payer, sources = self._written(kinds[0])
        readers, targets = self._read(kinds)
        first, _ = link_tensors(self._structure, kinds[0])
        bytes_ = self._structure.program.values[first.value].bytes_
        table = self._pricing.resharding_table(bytes_, sources, targets)
        table = table * (fan.count * kinds[0].trips)
        taken = Counter(column for r in readers for column in set(r.options.tolist()))
        is_shared = np.array([taken[column] > 1 for column in range(len(targets))])
        is_shared &= table.any(axis=0)
        own = np.where(is_shared, 0.0, table)
        for reader in readers:
            costs.add(payer, reader, own)
        if not is_shared.any():
            return None
        return _shared(payer, readers, table, is_shared=is_shared)

    def _written(self, kind: LinkKind) -> tuple[Choice, tuple[Sharding, ...]]:
        written, _ = link_tensors(self._structure, kind)
        shardings, options = self._spaces[kind.source].lies(written)
        return Choice(kind.source, options), shardings

    def _read(
        self, kinds: Sequence[LinkKind]
    ) -> tuple[list[Choice], tuple[Sharding, ...]]:
        """Readers that differ, and all shardings that they may want."""
        numbers: dict[Sharding, int] = {}
        readers: dict[tuple[int, bytes], Choice] = {}
        for kind in kinds:
            _, read = link_tensors(self._structure, kind)
            shardings, index = self._spaces[kind.target].lies(read)
            found = [numbers.setdefault(wanted, len(numbers)) for wanted in shardings]
            options: NDArray[np.intp] = np.array(found, np.intp)[index]
            key = (kind.target, options.tobytes())
            readers.setdefault(key, Choice(kind.target, options))
        return list(readers.values()), tuple(numbers)


def _shared(
    payer: Choice,
    readers: Sequence[Choice],
    table: Array,
    *,
    is_shared: NDArray[np.bool_],
) -> Shared:
    """The shared part of a table; what is not shared becomes column 0."""
    columns = np.where(is_shared, np.cumsum(is_shared), 0)
    free = np.zeros((len(table), 1))
    return Shared(
        payer,
        tuple(Choice(r.variable, columns[r.options]) for r in readers),
        np.concatenate([free, table[:, is_shared]], axis=1),
    )


def link_tensors(
    structure: Structure, kind: LinkKind
) -> tuple[GroupTensor, GroupTensor]:
    """The tensor of a kind of links as it is written and as it is read."""
    first = kind.first
    return (
        structure.groups[first.source].outputs[first.output],
        structure.groups[first.target].inputs[first.input],
    )
