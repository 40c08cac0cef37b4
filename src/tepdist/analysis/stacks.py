"""Stacks: repeated layers, and what of a program belongs to which of them.

The runs of a stack are its forward pass, its backward pass, the updates of its state:
each has a block for each layer, in an order of its own. The longest run numbers the
layers; what its blocks read, and what reads theirs, pairs off the blocks of the others
and the arguments. Then every layer but a few at the ends must read the same things of
the same layers, as many layers away: such a program is the same with fewer of them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.analysis.reads import Ints, Reads
from tepdist.analysis.runs import Run, find_runs
from tepdist.program.graph import Program

MIN_LAYERS = 12
# Layers at either end that may differ from the others, and how far these may read.
EDGE = 2
NONE = -1
_MOST_PARTS = 4


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
    while seeds := [run for run in left if run.count >= MIN_LAYERS]:
        seed = max(seeds, key=lambda run: run.stop - run.start)
        found = {seed}
        # A layer may be several blocks of the longest run.
        for parts in range(1, min(seed.count // MIN_LAYERS, _MOST_PARTS) + 1):
            layers = _Layers(program, reads, seed.joined(parts), runs=left)
            found |= layers.found
            if layers.are_alike():
                yield layers.stack()
                break
        left = [run for run in left if run not in found]


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
        made = np.bincount(reads.producers[self._num_arguments :], minlength=num_ops)
        # How many values there are before each op at the top, and in all.
        self._first_values = self._num_arguments + np.concatenate(
            [[0], np.cumsum(made)]
        )
        self._op_layer = np.full(num_ops, NONE, np.int64)
        self._op_class = np.full(num_ops, NONE, np.int64)
        self._value_layer = np.full(num_values, NONE, np.int64)
        self._value_class = np.full(num_values, NONE, np.int64)
        self._is_top = [op.parent is None for op in program.ops]
        self._layers: dict[Run, Ints] = {}
        self.found: set[Run] = set()
        self._add(seed, np.arange(seed.count))
        self._spread([run for run in runs if run.start != seed.start])

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
                parts = max(round(run.count / self._num_layers), 1)
                blocks = run.joined(parts)
                found = self._paired(blocks)
                if found is not None:
                    self._add(*found)
                    self.found.add(run)
                    runs.remove(run)
                    is_done = False

    def _paired(self, run: Run) -> tuple[Run, Ints] | None:
        """A run, aligned, and the layer of each block; None if nothing tells."""
        columns = self._columns(run)
        layers = _best(columns)
        if layers is not None and len(np.unique(np.diff(layers))) > 1:
            # Blocks of two layers each will do only where layers follow one another.
            run = run.shifted(self._seam(run, layers, columns))
            layers = _best(self._columns(run))
        return None if layers is None else (run, layers)

    def _seam(self, run: Run, layers: Ints, columns: Sequence[tuple[int, Ints]]) -> int:
        """First op of a block with which, as far as it goes, a layer begins."""
        moves = [(offset, _move(layers, column)) for offset, column in columns]
        told = [(offset, move) for offset, move in moves if move is not None]
        read = self._read(run)[-1]
        first, size = self._span(run)
        inside = (read >= first) & (read < first + size * run.count)
        made = self._reads.producers[read] - run.start
        readers = self._reads.owners[self._reads.starts[run.start] :][: len(made)]
        reader = (run.count - 1) * run.period + readers - run.start

        def misfits(start: int) -> int:
            """Reads of another block, and reads that are of another layer than most."""
            across = (made - start) // run.period != (reader - start) // run.period
            found = Counter(move - (at - start) // run.period for at, move in told)
            most = max(found.values(), default=0)
            return int((across & inside).sum()) + len(told) - most

        is_top = self._is_top[run.start : run.start + run.period]
        return min((at for at, top in enumerate(is_top) if top), key=misfits)

    def _columns(self, run: Run) -> list[tuple[int, Ints]]:
        """What tells the layers of blocks: an op of a block, and layers."""
        return [*self._by_reads(run), *self._by_readers(run)]

    def _by_reads(self, run: Run) -> Iterator[tuple[int, Ints]]:
        """For each read of a block its op, and the layers of what the blocks read."""
        read = self._read(run)
        owners = self._reads.owners[self._reads.starts[run.start] :] - run.start
        layers, classes = self._value_layer[read], self._value_class[read]
        most = classes.max(axis=0)
        is_one = ((classes == most) | (classes == NONE)).all(axis=0)
        for column in np.flatnonzero(is_one & (most != NONE)).tolist():
            yield int(owners[column]), layers[:, column]

    def _by_readers(self, run: Run) -> Iterator[tuple[int, Ints]]:
        """For what others in the stack read of a block its op, and their layers."""
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
                    made = self._reads.producers[first + most[column]] - run.start
                    yield int(made), found

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
        read = self._reads.of_ops(run.start, run.stop)
        return read.reshape(run.count, len(read) // run.count)

    def _span(self, run: Run) -> tuple[int, int]:
        """First value of a run's first block, and how many values a block has."""
        first = self._first_values[run.start]
        return int(first), int(self._first_values[run.start + run.period] - first)


def _best(columns: Sequence[tuple[int, Ints]]) -> Ints | None:
    """Layers of all blocks by what tells those of most; None if nothing does."""
    best: Ints | None = None
    for _, layers in columns:
        known = layers[layers != NONE]
        if len(np.unique(known)) < len(known):
            continue
        if best is None or len(known) > np.count_nonzero(best != NONE):
            best = layers
    return None if best is None else _extended(best, 2 * EDGE)


def _move(layers: Ints, read: Ints) -> int | None:
    """Of which next block what is read has the layers; None if that cannot be told.

    Args:
        layers: Of the blocks.
        read: Layers of what they read at one place.
    """
    for move in (0, 1, -1):
        moved = np.roll(layers, -move)
        both = (moved != NONE) & (read != NONE)
        both[: max(-move, 0)] = both[len(both) - max(move, 0) :] = False
        if both.any() and (moved == read)[both].all():
            return move
    return None


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
