"""The best assignment within limits as a mixed-integer program.

A whole column for each value of each variable; of each variable one is chosen. Where
two variables have a cost or a copy in common, a column for each pair of what their
values mean to these; the pairs that hold a meaning sum to the columns of its values
(`_add_joints`). A shared cost has a column for each entry, no less than what any reader
takes of it (`_add_shared`). At each time the buffers and copies in use keep to the
limit (`_add_limit`); a copy is in use if something reads it no later and something no
sooner (`_in_use`). Of each clause not all values are chosen (`_add_clause`).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tepdist.search.copies import Copied, Move
from tepdist.search.network import Network
from tepdist.search.shared import Array, Choice, Shared
from tepdist.solver.highs import Program, solve

# Costs and limits are scaled to this: HiGHS keeps to rows within 1e-6.
_SCALE = 1e3
_GRAIN = 1e-7  # of scaled costs, which are rounded down to it

_ALWAYS = -1  # in place of a column: chosen for certain
_SURE = frozenset({_ALWAYS})

Columns = NDArray[np.intp]
# A value of each of some variables, which may not all be chosen together.
Clause = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Limited:
    """What is solved: a network, and its memory at some times.

    Attributes:
        network: Costs at least 0; the limits are those of buffers and copies.
        copied: The copies that may be in use at each of its times.
        clauses: What may not be chosen.
    """

    network: Network
    copied: Sequence[Sequence[Copied]]
    clauses: Sequence[Clause] = ()


@dataclass(frozen=True, slots=True)
class Within:
    """What a solve within limits found.

    Attributes:
        assignment: Value of each variable; None if nothing beats the upper bound, or
            nothing was found in time.
        lower_bound: No assignment that keeps to limits and clauses costs less, up to
            the upper bound.
    """

    assignment: tuple[int, ...] | None
    lower_bound: float


def solve_within(
    limited: Limited,
    *,
    start: Sequence[int] | None = None,
    reference: float,
    upper: float,
    time_limit_s: float,
    is_exact: bool = True,
) -> Within:
    """Best assignment that keeps to limits and clauses.

    Args:
        limited: What to solve.
        start: An assignment that keeps to all of these.
        reference: Cost of some assignment, the scale of others.
        upper: A cost that an answer must beat; infinite if any is of interest.
        time_limit_s: After which the best so far is returned [s].
        is_exact: Whether the bound must be right; if not it is quicker.
    """
    unit = max(reference, 1e-12) / _SCALE
    program = _Stated(limited, unit)
    outcome = solve(
        program.whole(),
        time_limit_s=time_limit_s,
        start=None if start is None else program.chosen(start),
        is_exact=is_exact,
    )
    bound = min(max(outcome.lower_bound * unit, 0.0), upper)
    if outcome.columns is None:
        return Within(None, bound)
    found = program.assignment(outcome.columns)
    cost = limited.network.cost(found)
    if cost >= upper:
        return Within(None, upper if outcome.is_complete else bound)
    return Within(found, cost if outcome.is_complete else min(bound, cost))


@dataclass(frozen=True, slots=True)
class _Joint:
    """The columns of what two variables mean together.

    Attributes:
        columns: Of each pair of meanings, [rows, columns].
        row_of: Meaning of each value of the first.
        column_of: Meaning of each value of the second.
    """

    columns: Columns
    row_of: Columns
    column_of: Columns


class _Stated:
    """A program while it is written down."""

    def __init__(self, limited: Limited, unit: float) -> None:
        """States all of it.

        Args:
            limited: What is solved.
            unit: Of the program's costs [s].
        """
        self._network = network = limited.network
        sizes = [len(costs) for costs in network.unary]
        self._offsets = np.cumsum([0, *sizes], dtype=np.intp)
        self._costs = [costs / unit for costs in network.unary]
        self._unit = unit
        self._count = int(self._offsets[-1])
        self._entries: list[tuple[Columns, Columns, Array]] = []
        self._lower: list[Array] = []
        self._upper: list[Array] = []
        self._num_rows = 0
        self._joints: dict[tuple[int, int], _Joint] = {}
        self._made: dict[Move, int | None] = {}
        self._any: dict[frozenset[int], int] = {}
        self._both: dict[tuple[frozenset[int], frozenset[int]], int] = {}
        variables = np.repeat(np.arange(len(sizes)), sizes)
        self._rows(variables, np.arange(self._count), 1.0, low=1.0, high=1.0)
        self._add_joints(limited.copied)
        for shared in network.shared:
            self._add_shared(shared)
        for at, copied in enumerate(limited.copied):
            self._add_limit(at, copied)
        for clause in limited.clauses:
            self._add_clause(clause)

    def whole(self) -> Program:
        """All of it."""
        integral = np.arange(self._count) < self._offsets[-1]
        costs = np.concatenate(self._costs)
        forbidden = ~np.isfinite(costs)
        rows, columns, values = (
            np.concatenate(parts) for parts in zip(*self._entries, strict=True)
        )
        return Program(
            costs=np.where(forbidden, 0.0, np.floor(costs / _GRAIN) * _GRAIN),
            upper=np.where(forbidden, 0.0, 1.0),
            lower=np.zeros(self._count),
            integral=integral,
            row_lower=np.concatenate(self._lower),
            row_upper=np.concatenate(self._upper),
            entries=(rows, columns, values),
        )

    def chosen(self, assignment: Sequence[int]) -> Array:
        """The whole columns of an assignment."""
        columns = np.zeros(self._offsets[-1])
        columns[self._offsets[:-1] + np.asarray(assignment, np.intp)] = 1.0
        return columns

    def assignment(self, columns: Array) -> tuple[int, ...]:
        """The values that are chosen."""
        values = np.split(columns[: self._offsets[-1]], self._offsets[1:-1])
        return tuple(int(np.argmax(each)) for each in values)

    def _values(self, variable: int) -> Columns:
        return np.arange(self._offsets[variable], self._offsets[variable + 1])

    def _size(self, variable: int) -> int:
        return int(self._offsets[variable + 1] - self._offsets[variable])

    def _new(self, costs: Array) -> Columns:
        """A column for each scaled cost."""
        first = self._count
        self._count += costs.size
        self._costs.append(costs.ravel())
        return np.arange(first, self._count).reshape(costs.shape)

    def _rows(
        self,
        rows: Columns,
        columns: Columns,
        values: Array | float,
        *,
        low: float,
        high: float,
    ) -> None:
        """Adds rows, numbered from 0."""
        count = int(rows.max(initial=-1)) + 1
        coefficients = np.broadcast_to(np.asarray(values, np.float64), rows.shape)
        self._entries.append((self._num_rows + rows, columns, coefficients))
        self._lower.append(np.full(count, low))
        self._upper.append(np.full(count, high))
        self._num_rows += count

    def _add_joints(self, copied: Iterable[Iterable[Copied]]) -> None:
        """Columns of each two variables that have something in common."""
        labels: dict[tuple[int, int], list[tuple[Columns, Columns]]]
        labels = {pair: [] for pair in self._network.binary}

        def mark(first: Choice, second: Choice) -> None:
            if first.variable > second.variable:
                first, second = second, first
            if first.variable < second.variable:
                pair = (first.variable, second.variable)
                labels.setdefault(pair, []).append((first.options, second.options))

        for shared in self._network.shared:
            for each in shared.readers:
                mark(shared.payer, each)
        moves = [m for at in copied for each in at for m in (*each.before, *each.after)]
        for move in dict.fromkeys(moves):
            mark(Choice(move.source, move.rows), Choice(move.target, move.columns))
        for pair, found in labels.items():
            self._add_joint(pair, found)

    def _add_joint(
        self, pair: tuple[int, int], labels: Sequence[tuple[Columns, Columns]]
    ) -> None:
        i, j = pair
        sizes = (self._size(i), self._size(j))
        costs = self._network.binary.get(pair, np.zeros(sizes)) / self._unit
        if 1 in sizes:
            other = j if sizes[0] == 1 else i
            self._costs[other] = self._costs[other] + costs.ravel()
            self._joints[pair] = _Joint(
                self._values(other).reshape(sizes),
                np.arange(sizes[0]),
                np.arange(sizes[1]),
            )
            return
        row_of, first = _meanings(costs, [rows for rows, _ in labels])
        column_of, second = _meanings(costs.T, [columns for _, columns in labels])
        found = self._new(costs[np.ix_(first, second)])
        self._joints[pair] = _Joint(found, row_of, column_of)
        for variable, table, meaning_of in (
            (i, found, row_of),
            (j, found.T, column_of),
        ):
            meanings = np.repeat(np.arange(len(table)), table.shape[1])
            values = self._values(variable)
            self._rows(
                np.concatenate([meanings, meaning_of]),
                np.concatenate([table.ravel(), values]),
                np.repeat([1.0, -1.0], [len(meanings), len(values)]),
                low=0.0,
                high=0.0,
            )

    def _when(self, i: int, j: int, holds: NDArray[np.bool_]) -> Columns:
        """Columns of which one is chosen if and only if two variables' values hold.

        Args:
            i: The first variable; it may be the second too.
            j: The second.
            holds: Of each pair of values, [values, values].
        """
        if i == j:
            return self._values(i)[holds.diagonal()]
        if i > j:
            i, j, holds = j, i, holds.T
        joint = self._joints[i, j]
        rows, columns = np.nonzero(holds)
        return np.unique(joint.columns[joint.row_of[rows], joint.column_of[columns]])

    def _add_shared(self, shared: Shared) -> None:
        payer = shared.payer
        variables = [payer.variable, *(each.variable for each in shared.readers)]
        if all(self._size(variable) == 1 for variable in variables):
            certain = shared.cost([0] * self._network.num_variables) / self._unit
            self._costs[payer.variable] = self._costs[payer.variable] + certain
            return
        rows = np.unique(payer.options)
        taken = np.unique(np.concatenate([each.options for each in shared.readers]))
        table = shared.table / self._unit
        for row in rows.tolist():
            for column in taken[table[row, taken] > 0].tolist():
                paid = self._new(table[row, column].reshape(1))
                for each in shared.readers:
                    holds = np.outer(payer.options == row, each.options == column)
                    self._no_less(
                        paid, self._when(payer.variable, each.variable, holds)
                    )

    def _no_less(self, column: Columns, others: Columns) -> None:
        """One column is chosen if one of the others is; no two of these are."""
        if len(others):
            columns = np.concatenate([column, others])
            values = np.repeat([1.0, -1.0], [1, len(others)])
            rows = np.zeros(len(columns), np.intp)
            self._rows(rows, columns, values, low=0.0, high=np.inf)

    def _add_limit(self, at: int, copied: Iterable[Copied]) -> None:
        network = self._network
        most = float(network.limits[at] - network.fixed_usage[at])
        bytes_: dict[int, float] = defaultdict(float)
        for copy in copied:
            column = self._in_use(copy)
            if column is not None:
                bytes_[column] += copy.bytes_
        most -= bytes_.pop(_ALWAYS, 0.0)
        usage = np.concatenate([table[:, at] for table in network.usages])
        used = np.flatnonzero(usage)
        columns = np.concatenate([used, np.array(list(bytes_), np.intp)])
        amounts = np.concatenate([usage[used], np.array(list(bytes_.values()))])
        if not len(columns):
            return
        scale = _SCALE / max(abs(most), float(amounts.max()))
        self._rows(
            np.zeros(len(columns), np.intp),
            columns,
            amounts * scale,
            low=-np.inf,
            high=most * scale,
        )

    def _in_use(self, copy: Copied) -> int | None:
        """A column that is chosen if a copy is in use; None if it never is."""
        before, after = self._makers(copy.before), self._makers(copy.after)
        if not before or not after:
            return None
        if before <= after or after <= before:
            return self._some(before & after)
        if _ALWAYS in before | after:
            return self._some(after if _ALWAYS in before else before)
        if (before, after) not in self._both:
            column = self._new(np.zeros(1))
            if before & after:
                self._no_less(column, np.array([self._some(before & after)]))
            ends = np.array([self._some(before), self._some(after)])
            self._rows(
                np.zeros(3, np.intp),
                np.concatenate([column, ends]),
                np.array([1.0, -1.0, -1.0]),
                low=-1.0,
                high=np.inf,
            )
            self._both[before, after] = int(column[0])
        return self._both[before, after]

    def _makers(self, moves: Iterable[Move]) -> frozenset[int]:
        """Columns that are chosen if moves are made; one alone if that is always so."""
        found = {self._move(move) for move in moves}
        if _ALWAYS in found:
            return _SURE
        return frozenset(column for column in found if column is not None)

    def _move(self, move: Move) -> int | None:
        if move not in self._made:
            made = self._when(move.source, move.target, move.made())
            column = None
            if len(made) and self._size(move.source) == self._size(move.target) == 1:
                column = _ALWAYS
            elif len(made):
                (column,) = self._new(np.zeros(1)).tolist()
                self._no_less(np.array([column]), made)
            self._made[move] = column
        return self._made[move]

    def _some(self, columns: frozenset[int]) -> int:
        """A column that is chosen if any of some is."""
        if len(columns) == 1:
            return next(iter(columns))
        if columns not in self._any:
            found = self._new(np.zeros(1))
            for column in sorted(columns):
                self._no_less(found, np.array([column]))
            self._any[columns] = int(found[0])
        return self._any[columns]

    def _add_clause(self, clause: Clause) -> None:
        columns = np.array([self._offsets[i] + value for i, value in clause])
        rows = np.zeros(len(columns), np.intp)
        self._rows(rows, columns, 1.0, low=-np.inf, high=len(clause) - 1.0)


def _meanings(costs: Array, labels: Sequence[Columns]) -> tuple[Columns, Columns]:
    """The meaning of each row, equal if costs and labels are; a row of each meaning."""
    keys = np.column_stack([costs, *labels])
    _, first, meaning_of = np.unique(
        keys, axis=0, return_index=True, return_inverse=True
    )
    return meaning_of.ravel(), first
