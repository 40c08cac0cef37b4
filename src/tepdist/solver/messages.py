"""Message passing: a lower bound of a network without limits, and good assignments.

Sequential tree-reweighted message passing (TRW-S). Variables are visited in order of
their level, the longest path of edges that leads to them from variables before; edges
that start at one level and have the same size go through numpy together.

Source:
    V. Kolmogorov, "Convergent tree-reweighted message passing for energy
    minimization", IEEE TPAMI 28 (2006). We order by level.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.solver.exact import Reparametrized
from tepdist.solver.layout import Layout
from tepdist.solver.problem import Array, Indices

# Elements of the stacked tables of one step: more do not fit a cache.
_MOST_ELEMENTS = 1_000_000


@dataclass(slots=True)
class _Step:
    """Edges whose messages are computed together.

    Attributes:
        tables: Costs, [edges, values at the source, values at the target].
        sources: Flat position of each source value, [edges, values at the source].
        targets: Of each target value, [edges, values at the target].
        weights: Share of the source's cost that goes to each edge, [edges, 1].
        edges: Which they are, [edges].
        received: Positions of the messages to the source.
        sent: Of those to the target.
    """

    tables: Array
    sources: Indices
    targets: Indices
    weights: Array
    received: Indices
    sent: Indices


@dataclass(frozen=True, slots=True)
class _Sweep:
    """One direction: for each level the variables there, then the edges from it."""

    values: tuple[Indices, ...]
    starts: tuple[Indices, ...]
    steps: tuple[tuple[_Step, ...], ...]


class Messages:
    """Messages along the edges of a network, kept while its unary costs change."""

    def __init__(
        self, layout: Layout, edges: Mapping[tuple[int, int], Array]
    ) -> None:
        self._layout = layout
        ends = np.array(list(edges), np.intp).reshape(-1, 2)
        sizes = np.diff(layout.offsets)
        lengths = sizes[ends]
        # Messages to the lower end, then to the upper one, edge by edge.
        where = np.concatenate([[0], np.cumsum(lengths.ravel())]).astype(np.intp)
        self._where = where[:-1].reshape(-1, 2)
        self._messages = np.zeros(int(where[-1]))
        levels = _levels(ends, layout.num_variables)
        tables = self._tables = list(edges.values())
        counts = [np.bincount(ends[:, k], minlength=len(sizes)) for k in (0, 1)]
        weights = 1.0 / np.maximum(1, np.maximum(*counts))
        self._forward = self._sweep(ends, tables, levels=levels, weights=weights)
        self._backward = self._sweep(
            ends, tables, levels=levels, weights=weights, is_backward=True
        )

    def _sweep(
        self,
        ends: Indices,
        tables: Sequence[Array],
        *,
        levels: Indices,
        weights: Array,
        is_backward: bool = False,
    ) -> _Sweep:
        source, target = (1, 0) if is_backward else (0, 1)
        grouped: dict[int, dict[tuple[int, int], list[int]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for edge, table in enumerate(tables):
            level = int(levels[ends[edge, source]])
            grouped[level][table.shape[0], table.shape[1]].append(edge)
        order = sorted(set(levels.tolist()), reverse=is_backward)
        offsets = self._layout.offsets
        sizes = np.diff(offsets)
        values, starts, steps = [], [], []
        for level in order:
            here = np.flatnonzero(levels == level)
            values.append(np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in here]))
            starts.append(np.concatenate([[0], np.cumsum(sizes[here])[:-1]]).astype(np.intp))
            found = []
            for shape, group in grouped[level].items():
                size = max(1, _MOST_ELEMENTS // (shape[0] * shape[1]))
                for first in range(0, len(group), size):
                    chosen = np.array(group[first : first + size])
                    found.append(self._step(chosen, ends, tables, weights, source, target))
            steps.append(tuple(found))
        return _Sweep(tuple(values), tuple(starts), tuple(steps))

    def _step(self, chosen, ends, tables, weights, source, target) -> _Step:
        stacked = np.stack([tables[e] if source == 0 else tables[e].T for e in chosen])
        offsets = self._layout.offsets
        _, num_source, num_target = stacked.shape
        i, j = ends[chosen, source], ends[chosen, target]
        return _Step(
            tables=np.ascontiguousarray(stacked),
            sources=offsets[i][:, None] + np.arange(num_source),
            targets=offsets[j][:, None] + np.arange(num_target),
            weights=weights[i][:, None],
            received=self._where[chosen, source][:, None] + np.arange(num_source),
            sent=self._where[chosen, target][:, None] + np.arange(num_target),
        )

    def sums(self, unary: Array) -> Array:
        total = unary.copy()
        for steps in (*self._forward.steps, *self._backward.steps):
            for step in steps:
                np.add.at(total, step.targets, self._messages[step.sent])
        return total

    def improve(self, unary: Array) -> float:
        """One sweep there and back; a lower bound on the network's cost."""
        total = self.sums(unary)
        self._pass(total, self._forward)
        return self._pass(total, self._backward)

    def _pass(self, total: Array, sweep: _Sweep) -> float:
        bound = 0.0
        messages = self._messages
        shifted = np.empty_like(total)
        for values, starts, steps in zip(sweep.values, sweep.starts, sweep.steps, strict=True):
            here = total[values]
            least = np.minimum.reduceat(here, starts)
            bound += float(least.sum())
            shifted[values] = here - np.repeat(
                least, np.diff(starts, append=len(values))
            )
            for step in steps:
                given = shifted[step.sources] * step.weights - messages[step.received]
                new = (given[:, :, None] + step.tables).min(axis=1)
                low = new.min(axis=1, keepdims=True)
                bound += float(low.sum())
                new -= low
                np.add.at(total, step.targets, new - messages[step.sent])
                messages[step.sent] = new
        return bound

    def reparametrized(self, unary: Array) -> Reparametrized:
        """The same network with the messages moved into its costs."""
        total = self.sums(unary)
        constant = 0.0
        tables: list[Array] = []
        for table, (first, second) in zip(self._tables, self._where, strict=True):
            rows, columns = table.shape
            moved = (
                table
                - self._messages[first : first + rows, None]
                - self._messages[second : second + columns]
            )
            least = float(moved.min())
            constant += least
            tables.append(moved - least)
        parts = []
        for costs in self._layout.split(total):
            least = float(costs.min())
            constant += least
            parts.append(costs - least)
        return Reparametrized(tuple(parts), tuple(tables), constant)

    def round(self, unary: Array) -> Indices:
        """An assignment: level by level what is best for the lower levels' choices."""
        layout = self._layout
        total = unary.copy()
        for steps in self._backward.steps:
            for step in steps:
                np.add.at(total, step.targets, self._messages[step.sent])
        chosen = np.zeros(layout.num_variables, np.intp)
        sweep = self._forward
        sizes = np.diff(layout.offsets)
        for values, starts, steps in zip(sweep.values, sweep.starts, sweep.steps, strict=True):
            owners = layout.owners[values[starts]]
            here = total[values]
            for owner, part in zip(owners, np.split(here, starts[1:]), strict=True):
                chosen[owner] = part.argmin()
            for step in steps:
                rows = chosen[layout.owners[step.sources[:, 0]]]
                table = step.tables[np.arange(len(rows)), rows]
                np.add.at(total, step.targets, table)
        return chosen


def _levels(ends: Indices, num_variables: int) -> Indices:
    levels = np.zeros(num_variables, np.intp)
    for i, j in ends[np.lexsort((ends[:, 1], ends[:, 0]))].tolist():
        levels[j] = max(levels[j], levels[i] + 1)
    return levels
