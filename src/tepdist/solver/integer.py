"""A problem with fewer values as a mixed-integer program under its limits.

One column for each value allowed, whole; one for each allowed pair of values of an
edge. A variable takes one value; the pairs of an edge that hold a value sum to that
value's column; at each of some times the usages keep to the limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.solver.highs import Outcome, Program, solve
from tepdist.solver.layout import Layout
from tepdist.solver.problem import Array, Indices, Problem

# Limits are scaled to this: HiGHS keeps to rows within 1e-6.
_LIMIT_SCALE = 1e3


@dataclass(frozen=True, slots=True)
class Answer:
    """What a restricted program gave.

    Attributes:
        assignment: None if none was found.
        lower_bound: No allowed assignment costs less.
        is_complete: Whether the assignment is the best allowed one, or there is none.
    """

    assignment: tuple[int, ...] | None
    lower_bound: float
    is_complete: bool


class Restriction:
    """The program of a problem with some values of each variable."""

    def __init__(
        self, problem: Problem, layout: Layout, allowed: Sequence[Indices]
    ) -> None:
        """Prepares a program.

        Args:
            problem: Its limits are added by `solve`, for the times asked for.
            layout: Of the problem.
            allowed: Values that each variable may take, ascending.
        """
        self._problem, self._layout, self._allowed = problem, layout, allowed
        sizes = np.array([len(values) for values in allowed], np.intp)
        self._offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp)
        self._costs = [
            costs[values].copy()
            for costs, values in zip(problem.unary, allowed, strict=True)
        ]
        self._constant = problem.constant
        self._pairs: list[tuple[int, int, Indices, Indices, Array]] = []
        for (i, j), table in problem.edges.items():
            self._add(i, j, table)

    def _add(self, i: int, j: int, table: Array) -> None:
        rows, columns = self._allowed[i], self._allowed[j]
        if len(rows) == 1:
            self._costs[j] += table[rows[0], columns]
        elif len(columns) == 1:
            self._costs[i] += table[rows, columns[0]]
        else:
            costs = table[np.ix_(rows, columns)]
            first, second = np.nonzero(np.isfinite(costs))
            self._pairs.append((i, j, first, second, costs[first, second]))

    @property
    def num_columns(self) -> int:
        pairs = sum(len(costs) for *_, costs in self._pairs)
        return int(self._offsets[-1]) + pairs

    def solve(
        self,
        times: Sequence[int],
        *,
        time_limit_s: float,
        start: Sequence[int] | None = None,
        gap: float = 1e-6,
        is_exact: bool = False,
    ) -> Answer:
        """The best assignment of allowed values that keeps to the limits of some times.

        Args:
            times: Whose limits are kept to.
            time_limit_s: Time that HiGHS may take [s].
            start: An assignment of allowed values that keeps to those limits.
            gap: Relative gap to the bound at which an answer will do.
            is_exact: Whether the bound must be right; if not it is quicker.
        """
        program = self._program(times)
        known = None if start is None else self._columns(start)
        outcome = solve(
            program,
            time_limit_s=time_limit_s,
            start=known,
            gap=gap,
            is_exact=is_exact,
        )
        return self._answer(outcome)

    def _answer(self, outcome: Outcome) -> Answer:
        if outcome.columns is None:
            return Answer(None, outcome.lower_bound, outcome.is_complete)
        offsets = self._offsets
        assignment = tuple(
            int(values[outcome.columns[first : first + len(values)].argmax()])
            for first, values in zip(offsets, self._allowed, strict=False)
        )
        return Answer(assignment, outcome.lower_bound, outcome.is_complete)

    def _columns(self, start: Sequence[int]) -> Array:
        columns = np.zeros(self.num_columns)
        position = [
            int(np.searchsorted(values, value))
            for values, value in zip(self._allowed, start, strict=True)
        ]
        columns[self._offsets[:-1] + position] = 1.0
        at = int(self._offsets[-1])
        for i, j, first, second, costs in self._pairs:
            chosen = (first == position[i]) & (second == position[j])
            columns[at : at + len(costs)] = chosen
            at += len(costs)
        return columns

    def _program(self, times: Sequence[int]) -> Program:
        num_values = int(self._offsets[-1])
        costs = np.concatenate([*self._costs, *(c for *_, c in self._pairs)])
        forbidden = ~np.isfinite(costs)
        costs[forbidden] = 0.0
        sizes = np.diff(self._offsets)
        rows = [np.repeat(np.arange(len(sizes)), sizes)]
        columns, values = [np.arange(num_values)], [np.ones(num_values)]
        lower, upper = [np.ones(len(sizes))], [np.ones(len(sizes))]
        row, at = len(sizes), num_values
        for i, j, first, second, pair_costs in self._pairs:
            count = len(pair_costs)
            for variable, position in ((i, first), (j, second)):
                size = int(sizes[variable])
                rows += [row + position, row + np.arange(size)]
                columns += [
                    at + np.arange(count),
                    self._offsets[variable] + np.arange(size),
                ]
                values += [np.ones(count), np.full(size, -1.0)]
                lower.append(np.zeros(size))
                upper.append(np.zeros(size))
                row += size
            at += count
        for amounts, limit in self._limits(times):
            used = np.flatnonzero(amounts)
            rows.append(np.full(len(used), row))
            columns.append(used)
            values.append(amounts[used])
            lower.append(np.array([-np.inf]))
            upper.append(np.array([limit]))
            row += 1
        integral = np.arange(len(costs)) < num_values
        return Program(
            costs=costs,
            upper=np.where(forbidden, 0.0, np.where(integral, 1.0, np.inf)),
            lower=np.zeros(len(costs)),
            integral=integral,
            row_lower=np.concatenate(lower),
            row_upper=np.concatenate(upper),
            entries=(
                np.concatenate(rows),
                np.concatenate(columns),
                np.concatenate(values),
            ),
            constant=self._constant,
        )

    def _limits(self, times: Sequence[int]) -> list[tuple[Array, float]]:
        """Scaled usage of each allowed value, and the limit, where it may bind."""
        layout = self._layout
        allowed = np.concatenate(
            [
                first + values
                for first, values in zip(layout.offsets, self._allowed, strict=False)
            ]
        )
        found = []
        for time in times:
            live = (layout.usage_starts <= time) & (time < layout.usage_ends)
            amounts = np.bincount(
                layout.usage_values[live],
                layout.usage_amounts[live],
                layout.num_values,
            )[allowed]
            limit = float(layout.limits[time])
            if np.maximum.reduceat(amounts, self._offsets[:-1]).sum() > limit:
                scale = _LIMIT_SCALE / (max(limit, float(amounts.max())) or 1.0)
                found.append((amounts * scale, limit * scale))
        return found
