"""In which order messages are passed, and which of them together.

Variables are visited in order of their level: the longest path of edges that leads to
them from variables before. Edges that start at one level and have tables of one shape
are a step: numpy computes their messages together. All that is not a table lies flat
for a level at once, step after step. This depends on what is joined to what and on
how many values there are, not on costs.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tepdist.solver.problem import Array, Indices

# Elements of the stacked tables of one step: more do not fit a cache.
_MOST_ELEMENTS = 1_000_000

Ends = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """Edges whose messages are computed together.

    Attributes:
        edges: Which.
        variables: At their sources.
        shape: Of their stacked tables: edges, values at the source, at the target.
        given: Their part of what lies flat by values at the source.
        sent: Their part of what lies flat by values at the target.
        rows: Their part of what lies flat by edges.
    """

    edges: tuple[int, ...]
    variables: Indices
    shape: tuple[int, int, int]
    given: slice
    sent: slice
    rows: slice


@dataclass(frozen=True, slots=True)
class Level:
    """Variables visited together, then the steps from them.

    What is of edges is flat: one step after the other, in each one edge after the
    other.

    Attributes:
        variables: Which.
        values: Flat positions of their values, one variable after the other.
        starts: Where each variable's values start in `values`.
        sizes: How many they are.
        steps: Edges from these variables.
        sources: Flat position of each value at the source of each edge.
        weights: Share of its cost that the edge is given, like `sources`.
        received: Positions of the messages to the source, like `sources`.
        targets: Flat position of each value at the target of each edge.
        sent: Positions of the messages to the target, like `targets`.
        target_starts: Where each edge's values start in `targets`.
        target_sizes: How many they are.
    """

    variables: Indices
    values: Indices
    starts: Indices
    sizes: Indices
    steps: tuple[Step, ...]
    sources: Indices
    weights: Array
    received: Indices
    targets: Indices
    sent: Indices
    target_starts: Indices
    target_sizes: Indices


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


# The meshes of one search have networks of a few shapes.
@lru_cache(maxsize=8)
def sweeps(sizes: tuple[int, ...], edges: Ends) -> Sweeps:
    """The order for the edges of a network.

    Args:
        sizes: Number of values of each variable.
        edges: Ends of each, lower variable first.
    """
    lengths, ends = np.array(sizes, np.intp), np.array(edges, np.intp).reshape(-1, 2)
    ends_of_messages = np.cumsum(lengths[ends].ravel())
    places = np.concatenate([[0], ends_of_messages]).astype(np.intp)
    counts = [np.bincount(side, minlength=len(sizes)) for side in ends.T]
    wiring = _Wiring(
        lengths,
        np.cumsum(lengths) - lengths,
        ends,
        _levels(ends, len(sizes)),
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
        sizes: Number of values of each variable, [variables].
        offsets: Flat position of its first one, [variables].
        ends: Of each edge, [edges, 2].
        levels: Of each variable, [variables].
        places: Of the messages of each edge, [edges, 2].
        weights: Share of its cost that a variable gives to each edge, [variables].
    """

    sizes: Indices
    offsets: Indices
    ends: Indices
    levels: Indices
    places: Indices
    weights: Array

    def levels_from(self, *, source: int) -> Iterator[Level]:
        """The levels of the direction that starts at the first or second end."""
        grouped: dict[int, dict[tuple[int, ...], list[int]]] = defaultdict(
            lambda: defaultdict(list)
        )
        shapes = self.sizes[self.ends].tolist()
        at_source = self.levels[self.ends[:, source]].tolist()
        for edge, (level, shape) in enumerate(zip(at_source, shapes, strict=True)):
            grouped[level][tuple(shape)].append(edge)
        for level in sorted(set(self.levels.tolist()), reverse=source == 1):
            batches = [
                batch
                for shape, group in grouped[level].items()
                for batch in _batches(group, shape)
            ]
            yield self._level(np.flatnonzero(self.levels == level), batches, source)

    def _level(
        self, here: Indices, batches: Sequence[Sequence[int]], source: int
    ) -> Level:
        edges = np.array([edge for batch in batches for edge in batch], np.intp)
        i, j = self.ends[edges, source], self.ends[edges, 1 - source]
        given, sent = self.sizes[i], self.sizes[j]
        sizes = self.sizes[here]
        return Level(
            variables=here,
            values=_ranges(self.offsets[here], sizes),
            starts=np.cumsum(sizes) - sizes,
            sizes=sizes,
            steps=tuple(self._steps(batches, source)),
            sources=_ranges(self.offsets[i], given),
            weights=np.repeat(self.weights[i], given),
            received=_ranges(self.places[edges, source], given),
            targets=_ranges(self.offsets[j], sent),
            sent=_ranges(self.places[edges, 1 - source], sent),
            target_starts=np.cumsum(sent) - sent,
            target_sizes=sent,
        )

    def _steps(self, batches: Sequence[Sequence[int]], source: int) -> Iterator[Step]:
        edge = given = sent = 0
        for batch in batches:
            variables = self.ends[batch, source]
            num_source = int(self.sizes[variables[0]])
            num_target = int(self.sizes[self.ends[batch[0], 1 - source]])
            last = edge + len(batch), given + len(batch) * num_source
            end = sent + len(batch) * num_target
            yield Step(
                edges=tuple(batch),
                variables=variables,
                shape=(len(batch), num_source, num_target),
                given=slice(given, last[1]),
                sent=slice(sent, end),
                rows=slice(edge, last[0]),
            )
            (edge, given), sent = last, end


def _levels(ends: Indices, num_variables: int) -> Indices:
    levels = [0] * num_variables
    for i, j in sorted(ends.tolist()):
        levels[j] = max(levels[j], levels[i] + 1)
    return np.array(levels, np.intp)


def _ranges(starts: Indices, sizes: Indices) -> Indices:
    """All positions of some ranges, one range after the other."""
    shifts = starts - (np.cumsum(sizes) - sizes)
    positions: Indices = np.arange(int(sizes.sum())) + np.repeat(shifts, sizes)
    return positions


def _batches(edges: Sequence[int], shape: tuple[int, ...]) -> Iterator[Sequence[int]]:
    size = max(1, _MOST_ELEMENTS // math.prod(shape))
    for first in range(0, len(edges), size):
        yield edges[first : first + size]
