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
        sizes = tuple(np.diff(layout.offsets).tolist())
        self._layout = layout
        self._tables = tuple(edges.values())
        self._sweeps = sweeps(sizes, tuple(edges))
        self._forward = [_room(level) for level in self._sweeps.forward]
        self._backward = [_room(level) for level in self._sweeps.backward]
        self._fill()
        self._messages = np.zeros(self._sweeps.num_elements)

    def price(self, tables: Sequence[Array]) -> None:
        """Goes on with other costs on the edges.

        Args:
            tables: One for each edge, in the order of the first ones.
        """
        self._tables = tuple(tables)
        self._fill()

    def _fill(self) -> None:
        """Stacks the tables of each step."""
        turned = tuple(table.T for table in self._tables)
        for levels, stacks, tables in (
            (self._sweeps.forward, self._forward, self._tables),
            (self._sweeps.backward, self._backward, turned),
        ):
            for level, stacked in zip(levels, stacks, strict=True):
                for step, stack in zip(level.steps, stacked, strict=True):
                    for at, edge in enumerate(step.edges):
                        stack[:, at] = tables[edge]

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
        np.add.at(total, level.targets, self._messages[level.sent])

    def improve(self, unary: Array) -> float:
        """One sweep there and back.

        Args:
            unary: Cost of each value, [values].

        Returns:
            A lower bound on the cost of any assignment.
        """
        total = self.marginals(unary)
        self._pass(total, self._sweeps.forward, self._forward)
        return self._pass(total, self._sweeps.backward, self._backward)

    def _pass(
        self, total: Array, levels: Sequence[Level], stacks: Sequence[Sequence[Array]]
    ) -> float:
        """Renews the messages of one direction; the bound counts what they leave."""
        bound = 0.0
        messages = self._messages
        shifted = np.empty_like(total)
        for level, stacked in zip(levels, stacks, strict=True):
            here = total[level.values]
            least = np.minimum.reduceat(here, level.starts)
            bound += float(least.sum())
            if not level.steps:
                continue
            shifted[level.values] = here - np.repeat(least, level.sizes)
            given = shifted[level.sources] * level.weights - messages[level.received]
            sent = _least_sums(level, given, stacked)
            lowest = np.minimum.reduceat(sent, level.target_starts)
            # Step by step, so that the bound is the same however levels are laid out.
            for step in level.steps:
                bound += float(np.add.reduce(lowest[step.rows]))
            sent -= np.repeat(lowest, level.target_sizes)
            np.add.at(total, level.targets, sent - messages[level.sent])
            messages[level.sent] = sent
        return bound

    def round(self, unary: Array) -> tuple[int, ...]:
        """An assignment: level by level, the best for what is chosen before.

        Args:
            unary: Cost of each value, [values].
        """
        layout = self._layout
        total = self._from_above(unary)
        chosen = np.zeros(layout.num_variables, np.intp)
        for level, stacked in zip(self._sweeps.forward, self._forward, strict=True):
            parts = np.split(total[level.values], level.starts[1:])
            chosen[level.variables] = [part.argmin() for part in parts]
            for step, stack in zip(level.steps, stacked, strict=True):
                rows = chosen[step.variables]
                costs = stack[rows, np.arange(len(rows))]
                np.add.at(total, level.targets[step.sent], costs.ravel())
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


def _room(level: Level) -> list[Array]:
    """Room for the tables of each step, [values at source, edges, values at target].

    The values that the least is taken of come first: numpy then goes along all edges
    at once, 2 to 6 times as fast.
    """
    shapes = [step.shape for step in level.steps]
    return [np.empty((source, count, target)) for count, source, target in shapes]


def _least_sums(level: Level, given: Array, stacked: Sequence[Array]) -> Array:
    """What each value at a target costs with the best one at the source, flat."""
    sent = np.empty(len(level.targets))
    for step, tables in zip(level.steps, stacked, strict=True):
        count, num_source, num_target = step.shape
        sums = tables + given[step.given].reshape(count, num_source).T[:, :, None]
        out = sent[step.sent].reshape(count, num_target)
        np.minimum.reduce(sums, axis=0, out=out)
    return sent
