"""Message passing: a lower bound of a network without limits, and good assignments.

Sequential tree-reweighted message passing (TRW-S). A message adds to the costs of the
variable it goes to and is taken off the edge it comes along, so that the sum of all
costs stays the same; what is least of each is a bound of the whole.

Source:
    V. Kolmogorov, "Convergent tree-reweighted message passing for energy
    minimization", IEEE TPAMI 28 (2006). We order variables by level (`sweeps.py`).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tepdist.solver.exact import Reparametrized
from tepdist.solver.layout import Layout
from tepdist.solver.problem import Array
from tepdist.solver.sweeps import Level, sweeps


class Messages:
    """Messages along the edges of a network, kept while its costs change."""

    def __init__(self, layout: Layout, edges: Mapping[tuple[int, int], Array]) -> None:
        self._layout = layout
        self._tables = tuple(edges.values())
        self._sweeps = sweeps(layout, edges)
        self._messages = np.zeros(self._sweeps.num_elements)

    def price(self, tables: Sequence[Array]) -> None:
        """Goes on with other costs on the edges.

        Args:
            tables: One for each edge, in the order of the first ones.
        """
        self._tables = tuple(tables)
        for levels, is_back in ((self._sweeps.forward, 0), (self._sweeps.backward, 1)):
            for level in levels:
                for step in level.steps:
                    for row, edge in enumerate(step.edges.tolist()):
                        table = tables[edge]
                        step.tables[row] = table.T if is_back else table

    def marginals(self, unary: Array) -> Array:
        """Costs of each value with the messages to it, [values].

        Args:
            unary: Cost of each value, [values].
        """
        total = self._from_above(unary)
        for level in self._sweeps.forward:
            self._add(total, level)
        return total

    def _from_above(self, unary: Array) -> Array:
        total = unary.copy()
        for level in self._sweeps.backward:
            self._add(total, level)
        return total

    def _add(self, total: Array, level: Level) -> None:
        for step in level.steps:
            np.add.at(total, step.targets, self._messages[step.sent])

    def improve(self, unary: Array) -> float:
        """One sweep there and back.

        Args:
            unary: Cost of each value, [values].

        Returns:
            A lower bound on the cost of any assignment.
        """
        total = self.marginals(unary)
        self._pass(total, self._sweeps.forward)
        return self._pass(total, self._sweeps.backward)

    def _pass(self, total: Array, levels: Sequence[Level]) -> float:
        """Renews the messages of one direction; the bound counts what they leave."""
        bound = 0.0
        messages = self._messages
        shifted = np.empty_like(total)
        for level in levels:
            here = total[level.values]
            least = np.minimum.reduceat(here, level.starts)
            bound += float(least.sum())
            sizes = np.diff(level.starts, append=len(here))
            shifted[level.values] = here - np.repeat(least, sizes)
            for step in level.steps:
                given = shifted[step.sources] * step.weights - messages[step.received]
                sent = (given[:, :, None] + step.tables).min(axis=1)
                lowest = sent.min(axis=1, keepdims=True)
                bound += float(lowest.sum())
                sent -= lowest
                np.add.at(total, step.targets, sent - messages[step.sent])
                messages[step.sent] = sent
        return bound

    def round(self, unary: Array) -> tuple[int, ...]:
        """An assignment: level by level, the best for what is chosen before.

        Args:
            unary: Cost of each value, [values].
        """
        layout = self._layout
        total = self._from_above(unary)
        chosen = np.zeros(layout.num_variables, np.intp)
        for level in self._sweeps.forward:
            parts = np.split(total[level.values], level.starts[1:])
            chosen[level.variables] = [part.argmin() for part in parts]
            for step in level.steps:
                rows = chosen[layout.owners[step.sources[:, 0]]]
                table = step.tables[np.arange(len(rows)), rows]
                np.add.at(total, step.targets, table)
        return tuple(chosen.tolist())

    def reparametrized(self, unary: Array) -> Reparametrized:
        """The same network with the messages moved into its costs.

        Args:
            unary: Cost of each value, [values].
        """
        constant = 0.0
        tables, parts = [], []
        for table, (first, second) in zip(
            self._tables, self._sweeps.places.tolist(), strict=True
        ):
            rows, columns = table.shape
            to_rows = self._messages[first : first + rows]
            to_columns = self._messages[second : second + columns]
            moved = table - to_rows[:, None] - to_columns
            least = float(moved.min())
            constant += least
            tables.append(moved - least)
        for costs in self._layout.split(self.marginals(unary)):
            least = float(costs.min())
            constant += least
            parts.append(costs - least)
        return Reparametrized(tuple(parts), tuple(tables), constant)
