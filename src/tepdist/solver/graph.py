"""A network that shrinks: values and variables leave it without loss.

Remembers for each variable that left how its value follows from those that stay, so
that an assignment of the rest can be expanded to all. What may leave is decided in
`reduction.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.solver.problem import Array, Indices, Problem


@dataclass(frozen=True, slots=True)
class _Follows:
    """How a variable that left is decided.

    Attributes:
        variable: Which.
        leaders: The variables it follows, none to two.
        values: Its value by the leaders' values, [values of each leader].
    """

    variable: int
    leaders: tuple[int, ...]
    values: Indices


class Graph:
    """The variables that are left, their values, edges and usages.

    Attributes:
        alive: Variables that are left.
        unary: Costs of a variable's values that are left, finite, [values].
        around: For each variable its neighbours and the table of each,
            [own values, neighbour's values].
        usages: For each variable the amounts of its values by start and end, [values].
        fixed: Usage that no choice changes any more, by start and end.
        constant: Cost that no choice changes any more.
        touched: Variables around which something has changed.
    """

    def __init__(self, problem: Problem) -> None:
        count = problem.num_variables
        self.alive = set(range(count))
        self.unary = list(problem.unary)
        self.around: list[dict[int, Array]] = [{} for _ in range(count)]
        for (i, j), table in problem.edges.items():
            self.around[i][j] = table
            self.around[j][i] = table.T
        self.usages: list[dict[tuple[int, int], Array]] = [{} for _ in range(count)]
        for usage in problem.usages:
            if usage.end > usage.start:
                self._use(usage.variable, (usage.start, usage.end), usage.amounts)
        self.fixed: dict[tuple[int, int], float] = {}
        self.constant = problem.constant
        self.touched = set(range(count))
        self._sizes = [len(costs) for costs in problem.unary]
        self._values: list[Indices] = [np.arange(size) for size in self._sizes]
        self._left: list[_Follows] = []
        self._plain: dict[tuple[int, int], Array] = {}

    def _use(self, variable: int, live: tuple[int, int], amounts: Array) -> None:
        usages = self.usages[variable]
        usages[live] = usages[live] + amounts if live in usages else amounts

    def keep(self, variable: int, kept: "np.ndarray") -> None:
        """Drops values.

        Args:
            variable: Whose.
            kept: Whether each value stays, [values].
        """
        self.unary[variable] = self.unary[variable][kept]
        self._values[variable] = self._values[variable][kept]
        for other, table in self.around[variable].items():
            self._set_table(variable, other, table[kept])
            self.touched.add(other)
        usages = self.usages[variable]
        self.usages[variable] = {live: usage[kept] for live, usage in usages.items()}
        self.touched.add(variable)

    def _set_table(self, i: int, j: int, table: Array) -> None:
        self.around[i][j] = table
        self.around[j][i] = table.T

    def set_edge(self, i: int, j: int, table: Array) -> None:
        """Replaces the costs of an edge, [values i, values j]."""
        self._set_table(i, j, table)
        self.touched |= {i, j}

    def note_plain(self, i: int, j: int) -> None:
        """Remembers that an edge allows all pairs and is no sum of unary costs."""
        self._plain[i, j] = self.around[i][j]
        self._plain[j, i] = self.around[j][i]

    def is_plain(self, i: int, j: int) -> bool:
        """Whether that was found of the edge as it is now."""
        return self._plain.get((i, j)) is self.around[i][j]

    def add_edge(self, i: int, j: int, table: Array) -> None:
        """Adds costs to an edge, [values i, values j]; makes it if there is none."""
        if j in self.around[i]:
            table = self.around[i][j] + table
        self.set_edge(i, j, table)

    def drop_edge(self, i: int, j: int) -> None:
        del self.around[i][j]
        del self.around[j][i]
        self.touched |= {i, j}

    def settle_usage(self, variable: int) -> None:
        """Takes what all values use alike out of the variable's usages."""
        varying = {}
        for live, amounts in self.usages[variable].items():
            least = float(amounts.min())
            if least > 0:
                self.fixed[live] = self.fixed.get(live, 0.0) + least
                amounts = amounts - least
            if amounts.any():
                varying[live] = amounts
        self.usages[variable] = varying

    def settle_value(self, variable: int) -> None:
        """Removes a variable that has one value left."""
        for other, table in list(self.around[variable].items()):
            self.unary[other] = self.unary[other] + table[0]
            self.drop_edge(variable, other)
        self.constant += float(self.unary[variable][0])
        self.settle_usage(variable)
        self._leave(variable, (), np.zeros((), np.intp))

    def follow(self, variable: int, leader: int, values: Indices) -> None:
        """Removes a variable whose value is known once its neighbour's is.

        Args:
            variable: Leaves; its edges and usages become the leader's.
            leader: A neighbour.
            values: Of the variable, by value of the leader, [values of leader].
        """
        table = self.around[variable][leader]
        size = len(self.unary[leader])
        self.unary[leader] = (
            self.unary[leader]
            + self.unary[variable][values]
            + table[values, np.arange(size)]
        )
        self.drop_edge(variable, leader)
        for other, costs in list(self.around[variable].items()):
            self.drop_edge(variable, other)
            self.add_edge(leader, other, costs[values])
        for live, amounts in self.usages[variable].items():
            self._use(leader, live, amounts[values])
        self._leave(variable, (leader,), values)

    def eliminate(self, variable: int) -> None:
        """Removes a variable without usage that has at most two neighbours.

        It takes its best value for theirs; that cost becomes theirs.
        """
        leaders = tuple(self.around[variable])
        costs = self.unary[variable]
        for other in leaders:
            table = self.around[variable][other]
            costs = costs[..., None] + np.expand_dims(
                table, tuple(range(1, costs.ndim))
            )
            self.drop_edge(variable, other)
        best = costs.min(axis=0)
        match leaders:
            case ():
                self.constant += float(best)
            case (leader,):
                self.unary[leader] = self.unary[leader] + best
            case (first, second):
                self.add_edge(first, second, best)
            case _:
                raise AssertionError(f"{len(leaders)} neighbours")
        self._leave(variable, leaders, costs.argmin(axis=0))

    def _leave(self, variable: int, leaders: tuple[int, ...], values: Indices) -> None:
        own = self._values[variable]
        full = np.zeros([self._sizes[leader] for leader in leaders], np.intp)
        full[np.ix_(*(self._values[leader] for leader in leaders))] = own[values]
        self._left.append(_Follows(variable, leaders, full))
        self.alive.discard(variable)
        self.touched.discard(variable)

    def expand(self, variables: Sequence[int], values: Sequence[int]) -> list[int]:
        """Values of all variables that ever were, from the values of those left.

        Args:
            variables: Those left.
            values: Position of each one's value among its values that are left.
        """
        full = [0] * len(self.unary)
        for variable, value in zip(variables, values, strict=True):
            full[variable] = int(self._values[variable][value])
        for follows in reversed(self._left):
            chosen = tuple(full[leader] for leader in follows.leaders)
            full[follows.variable] = int(follows.values[chosen])
        return full

    def contract(
        self, variables: Sequence[int], values: Sequence[int]
    ) -> list[int] | None:
        """Positions of the values of those left; None if one of the values has left.

        Args:
            variables: Those left.
            values: Of all variables that ever were.
        """
        positions = []
        for variable in variables:
            found = np.flatnonzero(self._values[variable] == values[variable])
            if not len(found):
                return None
            positions.append(int(found[0]))
        return positions
