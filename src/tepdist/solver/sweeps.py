"""In which order messages are passed, and which of them together.

Variables are visited in order of their level: the longest path of edges that leads to
them from variables before. Edges that start at one level and have tables of one shape
are a step: numpy computes their messages together.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.solver.layout import Layout
from tepdist.solver.problem import Array, Indices

# Elements of the stacked tables of one step: more do not fit a cache.
_MOST_ELEMENTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Step:
    """Edges whose messages are computed together.

    Attributes:
        edges: Which.
        tables: Costs, [edges, values at the source, values at the target].
        sources: Flat position of each source value, [edges, values at the source].
        targets: Of each target value, [edges, values at the target].
        weights: Share of the source's cost that each edge is given, [edges, 1].
        received: Positions of the messages to the source, like `sources`.
        sent: Of those to the target, like `targets`.
    """

    edges: Indices
    tables: Array
    sources: Indices
    targets: Indices
    weights: Array
    received: Indices
    sent: Indices


@dataclass(frozen=True, slots=True)
class Level:
    """Variables visited together, then the steps from them.

    Attributes:
        variables: Which.
        values: Flat positions of their values, one variable after the other.
        starts: Where each variable's values start in `values`.
        steps: Edges from these variables.
    """

    variables: Indices
    values: Indices
    starts: Indices
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Sweeps:
    """Both directions, and where the messages are.

    Attributes:
        forward: Along the edges, from lower variables to higher ones.
        backward: Against them.
        places: Start of the message to the lower and the higher end, [edges, 2].
        num_elements: Of all messages.
    """

    forward: tuple[Level, ...]
    backward: tuple[Level, ...]
    places: Indices
    num_elements: int


def sweeps(layout: Layout, edges: Mapping[tuple[int, int], Array]) -> Sweeps:
    """The order for the edges of a network, lower variable first."""
    ends = np.array(list(edges), np.intp).reshape(-1, 2)
    lengths = np.diff(layout.offsets)[ends].ravel()
    places = np.concatenate([[0], np.cumsum(lengths)]).astype(np.intp)
    counts = [np.bincount(side, minlength=layout.num_variables) for side in ends.T]
    wiring = _Wiring(
        layout,
        ends,
        list(edges.values()),
        places[:-1].reshape(-1, 2),
        weights=1.0 / np.maximum(1, np.maximum(*counts)),
    )
    return Sweeps(
        forward=tuple(wiring.levels_from(source=0)),
        backward=tuple(wiring.levels_from(source=1)),
        places=wiring.places,
        num_elements=int(places[-1]),
    )


@dataclass(frozen=True, slots=True)
class _Wiring:
    """The edges.

    Attributes:
        layout: Of the values.
        ends: Of each edge, [edges, 2].
        tables: Of each edge.
        places: Of its messages, [edges, 2].
        weights: Share of its cost that a variable gives to each edge, [variables].
    """

    layout: Layout
    ends: Indices
    tables: Sequence[Array]
    places: Indices
    weights: Array

    def levels_from(self, *, source: int) -> Iterator[Level]:
        """The levels of the direction that starts at the first or second end."""
        offsets = self.layout.offsets
        sizes = np.diff(offsets)
        levels = _levels(self.ends, self.layout.num_variables)
        grouped: dict[int, dict[tuple[int, ...], list[int]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for edge, table in enumerate(self.tables):
            grouped[int(levels[self.ends[edge, source]])][table.shape].append(edge)
        for level in sorted(set(levels.tolist()), reverse=source == 1):
            here = np.flatnonzero(levels == level)
            yield Level(
                variables=here,
                values=_ranges(offsets[here], sizes[here]),
                starts=np.cumsum(sizes[here]) - sizes[here],
                steps=tuple(
                    self._step(chosen, source=source)
                    for shape, group in grouped[level].items()
                    for chosen in _batches(group, shape)
                ),
            )

    def _step(self, chosen: Indices, *, source: int) -> Step:
        target = 1 - source
        tables = [self.tables[edge] for edge in chosen]
        stacked = np.stack([table.T if source else table for table in tables])
        _, num_source, num_target = stacked.shape
        at_source, at_target = np.arange(num_source), np.arange(num_target)
        offsets = self.layout.offsets
        i, j = self.ends[chosen, source], self.ends[chosen, target]
        return Step(
            edges=chosen,
            tables=stacked,
            sources=offsets[i][:, None] + at_source,
            targets=offsets[j][:, None] + at_target,
            weights=self.weights[i][:, None],
            received=self.places[chosen, source][:, None] + at_source,
            sent=self.places[chosen, target][:, None] + at_target,
        )


def _levels(ends: Indices, num_variables: int) -> Indices:
    levels = np.zeros(num_variables, np.intp)
    for i, j in sorted(ends.tolist()):
        levels[j] = max(levels[j], levels[i] + 1)
    return levels


def _ranges(starts: Indices, sizes: Indices) -> Indices:
    """All positions of some ranges, one range after the other."""
    shifts = starts - (np.cumsum(sizes) - sizes)
    positions: Indices = np.arange(int(sizes.sum())) + np.repeat(shifts, sizes)
    return positions


def _batches(edges: Sequence[int], shape: tuple[int, ...]) -> Iterator[Indices]:
    size = max(1, _MOST_ELEMENTS // int(np.prod(shape)))
    for first in range(0, len(edges), size):
        yield np.array(edges[first : first + size], np.intp)
