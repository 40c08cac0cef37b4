"""Stacks: repeated layers, and what of a program belongs to which of them.

The runs of a stack are its forward pass, its backward pass, the updates of its state:
each has a block for each layer, in an order of its own. The longest run numbers the
layers; what its blocks read, and what reads theirs, pairs off the blocks of the others
and the arguments. Then every layer but a few at the ends must read the same things of
the same layers, as many layers away: such a program is the same with fewer of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from tepdist.analysis.reads import Ints, Reads
from tepdist.analysis.runs import Run, find_runs
from tepdist.program.graph import Program

MIN_LAYERS = 12
# Layers at either end that may differ from the others, and how far these may read.
EDGE = 2
NONE = -1


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers of a program.

    Attributes:
        num_layers: How many.
        op_layer: For each op its layer, `NONE` if it lies in none.
        op_class: For each op that lies in one which op of its layer it is.
        value_layer: For each value likewise; an argument lies where it is read.
        value_class: Likewise.
    """

    num_layers: int
    op_layer: Ints
    op_class: Ints
    value_layer: Ints
    value_class: Ints


def find_stacks(program: Program, reads: Reads) -> Iterator[Stack]:
    """The stacks of a program, the one of most ops first.

    Args:
        program: Any.
        reads: Its reads.
    """
    left = list(find_runs(program, MIN_LAYERS - EDGE))
    while left:
        seed = max(left, key=lambda run: run.stop - run.start)
        if seed.count < MIN_LAYERS:
            return
        layers = _Layers(program, reads, seed, runs=left)
        if layers.are_alike():
            yield layers.stack()
        left = [run for run in left if run not in layers.found]


class _Layers:
    """Numbers the layers of one stack.

    Attributes:
        found: Runs that lie in the stack.
    """

    def __init__(
        self, program: Program, reads: Reads, seed: Run, *, runs: Sequence[Run]
    ) -> None:
        num_ops, num_values = len(program.ops), len(program.values)
        self._reads = reads
        self._num_layers = seed.count
        self._num_arguments = len(program.arguments)
        self._first_values = _first_values(program)
        self._op_layer = np.full(num_ops, NONE, np.int64)
        self._op_class = np.full(num_ops, NONE, np.int64)
        self._value_layer = np.full(num_values, NONE, np.int64)
        self._value_class = np.full(num_values, NONE, np.int64)
        self._layers: dict[Run, Ints] = {}
        self.found = {seed}
        self._add(seed, np.arange(seed.count))
        self._spread([run for run in runs if run != seed])

    def stack(self) -> Stack:
        """What has been found."""
        return Stack(
            self._num_layers,
            self._op_layer,
            self._op_class,
            self._value_layer,
            self._value_class,
        )

    def are_alike(self) -> bool:
        """Whether all layers but some at the ends read alike."""
        inner = np.arange(EDGE, self._num_layers - EDGE)
        for run, layers in self._layers.items():
            rows = np.flatnonzero((layers >= EDGE) & (layers < self._num_layers - EDGE))
            if not np.array_equal(np.sort(layers[rows]), inner):
                return False
            read = self._read(run)[rows]
            apart = self._value_layer[read] - layers[rows, None]
            classes = self._value_class[read]
            is_same = (read == read[0]).all(axis=0)
            is_regular = (
                (classes[0] != NONE)
                & (classes == classes[0]).all(axis=0)
                & (apart == apart[0]).all(axis=0)
                & (abs(apart[0]) <= EDGE)
            )
            if not (is_same | is_regular).all():
                return False
        return True

    def _spread(self, runs: list[Run]) -> None:
        """Adds every run that can be paired off with what is in the stack already."""
        is_done = False
        while not is_done:
            is_done = True
            for run in list(runs):
                blocks = self._merged(run)
                layers = self._paired(blocks)
                if layers is not None:
                    self._add(blocks, layers)
                    self.found.add(run)
                    runs.remove(run)
                    is_done = False

    def _merged(self, run: Run) -> Run:
        """The run with as many blocks as there are layers, if it has a multiple."""
        parts = max(round(run.count / self._num_layers), 1)
        return Run(run.start, run.period * parts, run.count // parts)

    def _paired(self, run: Run) -> Ints | None:
        """Layer of each block of a run; None if nothing tells."""
        best: Ints | None = None
        for layers in chain(self._by_reads(run), self._by_readers(run)):
            known = layers[layers != NONE]
            if len(np.unique(known)) < len(known):
                continue
            if best is None or len(known) > np.count_nonzero(best != NONE):
                best = layers
        return None if best is None else _extended(best, 2 * EDGE)

    def _by_reads(self, run: Run) -> Iterator[Ints]:
        """For each read of a block, the layers of what the blocks read there."""
        read = self._read(run)
        layers, classes = self._value_layer[read], self._value_class[read]
        most = classes.max(axis=0)
        is_one = ((classes == most) | (classes == NONE)).all(axis=0)
        for column in np.flatnonzero(is_one & (most != NONE)).tolist():
            yield layers[:, column]

    def _by_readers(self, run: Run) -> Iterator[Ints]:
        """For each read of what is in the stack, the layers that read each block."""
        first, size = self._span(run)
        for other, layers in self._layers.items():
            read = self._read(other)
            inside = (read >= first) & (read < first + size * run.count)
            place = np.where(inside, (read - first) % size, NONE)
            most = place.max(axis=0)
            is_one = ((place == most) | ~inside).all(axis=0)
            for column in np.flatnonzero(is_one & (most != NONE)).tolist():
                rows = inside[:, column]
                blocks = (read[rows, column] - first) // size
                if len(np.unique(blocks)) == len(blocks):
                    found = np.full(run.count, NONE, np.int64)
                    found[blocks] = layers[rows]
                    yield found

    def _add(self, run: Run, layers: Ints) -> None:
        """Takes the blocks of a run, and arguments that each reads alone, as layers."""
        inside = (layers >= 0) & (layers < self._num_layers)
        layers = np.where(inside, layers, NONE)
        self._layers[run] = layers
        first, size = self._span(run)
        for start, length, of_layer, of_class in (
            (run.start, run.period, self._op_layer, self._op_class),
            (first, size, self._value_layer, self._value_class),
        ):
            stop = start + length * run.count
            of_layer[start:stop] = np.repeat(layers, length)
            classes = np.tile(np.arange(start, start + length), run.count)
            of_class[start:stop] = np.where(of_layer[start:stop] == NONE, NONE, classes)
        read = self._read(run)[inside]
        is_argument = (read < self._num_arguments) & (self._value_layer[read] == NONE)
        for column in np.flatnonzero(is_argument.all(axis=0)).tolist():
            arguments = read[:, column]
            if len(np.unique(arguments)) == len(arguments):
                self._value_layer[arguments] = layers[inside]
                self._value_class[arguments] = arguments[0]

    def _read(self, run: Run) -> Ints:
        """What a run reads, [blocks, reads of a block]."""
        return self._reads.of_ops(run.start, run.stop).reshape(run.count, -1)

    def _span(self, run: Run) -> tuple[int, int]:
        """First value of a run's first block, and how many values a block has."""
        first = self._first_values[run.start]
        return int(first), int(self._first_values[run.start + run.period] - first)


def _first_values(program: Program) -> Ints:
    """How many values there are before each op at the top; in all, [num ops + 1]."""
    made = np.array(
        [value.producer for value in program.values[len(program.arguments) :]], np.int64
    )
    counts = np.bincount(made, minlength=len(program.ops))
    return len(program.arguments) + np.concatenate([[0], np.cumsum(counts)])


def _extended(layers: Ints, most_unknown: int) -> Ints | None:
    """The layers of all blocks, if those known go up or down by one.

    In another order those of a few may stay unknown.
    """
    known = np.flatnonzero(layers != NONE)
    for slope in (1, -1):
        starts = np.unique(layers[known] - slope * known)
        if len(starts) == 1:
            found: Ints = starts[0] + slope * np.arange(len(layers))
            return found
    return layers if len(layers) - len(known) <= most_unknown else None
