"""A cost function network with usage over time: what the solver solves.

Choose one value for each variable. The cost is the sum of a unary cost for each
variable, a binary cost for each edge, and what several variables need alike and pay
once. At each of a few times, the sum of the variables' usages must not exceed the
limit. Plain arrays; no sharding in here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tepdist.search.shared import Array, Choice, Shared


@dataclass(frozen=True, slots=True)
class Network:
    """Variables 0..n-1.

    Attributes:
        unary: Cost of each value of each variable, [num values of i].
        binary: For pairs i < j the cost of each pair of values, [values i, values j].
        shared: What is paid once by several.
        usages: Usage of each value at each time, [values of i, num times].
        limits: Limit at each time, [num times].
        fixed_usage: Usage that no variable decides, [num times].
    """

    unary: tuple[Array, ...]
    binary: Mapping[tuple[int, int], Array]
    shared: tuple[Shared, ...]
    usages: tuple[Array, ...]
    limits: Array
    fixed_usage: Array

    @property
    def num_variables(self) -> int:
        return len(self.unary)

    def cost(self, assignment: tuple[int, ...]) -> float:
        """Cost of an assignment."""
        total = sum(
            float(costs[value])
            for costs, value in zip(self.unary, assignment, strict=True)
        )
        total += sum(
            float(costs[assignment[i], assignment[j]])
            for (i, j), costs in self.binary.items()
        )
        total += sum(shared.cost(assignment) for shared in self.shared)
        return total

    def usage(self, assignment: tuple[int, ...]) -> Array:
        """Usage at each time, [num times]."""
        total = self.fixed_usage.copy()
        for usage, value in zip(self.usages, assignment, strict=True):
            total += usage[value]
        return total

    def fits(self, assignment: tuple[int, ...]) -> bool:
        return bool(np.all(self.usage(assignment) <= self.limits))

    def priced(self, multipliers: Array) -> "Network":
        """The same network with usage priced into the unary costs, and no limits.

        Args:
            multipliers: Price of one unit of usage at each time, [num times].
        """
        unary = [
            costs + usage @ multipliers
            for costs, usage in zip(self.unary, self.usages, strict=True)
        ]
        return unlimited(unary, self.binary, self.shared)

    def only(self, values: Sequence[NDArray[np.intp]]) -> "Network":
        """The network of some values of each variable.

        Args:
            values: Of each variable.
        """

        def part(choice: Choice) -> Choice:
            return Choice(choice.variable, choice.options[values[choice.variable]])

        return replace(
            self,
            unary=tuple(c[v] for c, v in zip(self.unary, values, strict=True)),
            binary={
                (i, j): table[np.ix_(values[i], values[j])]
                for (i, j), table in self.binary.items()
            },
            shared=tuple(
                Shared(part(s.payer), tuple(map(part, s.readers)), s.table)
                for s in self.shared
            ),
            usages=tuple(u[v] for u, v in zip(self.usages, values, strict=True)),
        )

    def charged(self, parts: Sequence[Shared], *, divided: bool) -> "Network":
        """A network in which each reader pays for itself in some shared costs.

        Args:
            parts: Of the shared costs.
            divided: Whether a reader pays its part of a column, as if all took it: no
                assignment costs more than here. Else each pays in full: none costs
                less.
        """
        costs = CostSums(self.unary, self.binary)
        for shared in parts:
            table = shared.divided if divided else shared.table
            for reader in shared.readers:
                costs.add(shared.payer, reader, table)
        gone = {id(shared) for shared in parts}
        return replace(
            self,
            unary=tuple(costs.unary),
            binary=costs.binary,
            shared=tuple(s for s in self.shared if id(s) not in gone),
        )


class CostSums:
    """Unary and binary costs while they are added up.

    Attributes:
        unary: As in `Network`.
        binary: As in `Network`.
    """

    def __init__(
        self,
        unary: Sequence[Array],
        binary: Mapping[tuple[int, int], Array] | None = None,
    ) -> None:
        self.unary = list(unary)
        self.binary = dict(binary or {})

    def add(self, first: Choice, second: Choice, table: Array) -> None:
        """Adds the cost of what two variables, or one with itself, choose together.

        Args:
            first: Takes the row.
            second: Takes the column.
            table: Cost of each column in each row.
        """
        costs = table[first.options].take(second.options, axis=1)
        self.add_pairs(first.variable, second.variable, costs)

    def add_pairs(self, i: int, j: int, costs: Array) -> None:
        """Adds the cost of each pair of values of two variables, or one with itself."""
        if i == j:
            self.unary[i] = self.unary[i] + costs.diagonal()
            return
        if i > j:
            i, j, costs = j, i, costs.T
        known = self.binary.get((i, j))
        self.binary[i, j] = costs if known is None else known + costs


def unlimited(
    unary: Sequence[Array],
    binary: Mapping[tuple[int, int], Array],
    shared: tuple[Shared, ...] = (),
) -> Network:
    """A network without usage."""
    none = np.zeros(0)
    usages = tuple(np.zeros((len(costs), 0)) for costs in unary)
    return Network(tuple(unary), binary, shared, usages, none, none)
