"""Gaps: the inner layers of a stack, left out of a program."""

from dataclasses import dataclass

import numpy as np

from tepdist.analysis.layers import PERIOD, ROUNDS
from tepdist.analysis.reads import Bools, Ints, Reads
from tepdist.analysis.stacks import EDGE, MIN_LAYERS, NONE, Stack

# Layers that stay at each end: what decides together there sees the end of its stack.
KEPT = ROUNDS + PERIOD
assert EDGE <= ROUNDS
assert MIN_LAYERS >= 2 * KEPT + PERIOD


@dataclass(frozen=True, slots=True)
class Places:
    """Where ops, or values, stand in the layers of a stack.

    Attributes:
        layers: Of each its layer, `NONE` if it lies in none.
        rows: Of each its row in the table, `NONE` likewise.
        table: What stands in each layer, [rows, layers].
    """

    layers: Ints
    rows: Ints
    table: Ints

    @staticmethod
    def of(layers: Ints, classes: Ints, num_layers: int) -> "Places":
        """Places of all that has a layer and a class."""
        placed = np.flatnonzero(layers != NONE)
        known, found = np.unique(classes[placed], return_inverse=True)
        rows = np.full(len(layers), NONE, np.int64)
        rows[placed] = found
        table = np.full((len(known), num_layers), NONE, np.int64)
        table[found, layers[placed]] = placed
        return Places(layers, rows, table)

    def at(self, items: Ints, layers: Ints) -> Ints:
        """The same as these in other layers."""
        found: Ints = self.table[self.rows[items], layers]
        return found


@dataclass(frozen=True, slots=True)
class Gap:
    """Layers of a stack that are left out.

    Attributes:
        start: First layer that is left out.
        stop: The first after those.
        num_layers: Of the stack.
        ops: Where ops stand.
        values: Where values stand.
    """

    start: int
    stop: int
    num_layers: int
    ops: Places
    values: Places

    @staticmethod
    def of(stack: Stack) -> "Gap":
        """As many layers of a stack as can be left out."""
        count = stack.num_layers
        return Gap(
            KEPT,
            KEPT + (count - 2 * KEPT) // PERIOD * PERIOD,
            count,
            Places.of(stack.op_layer, stack.op_class, count),
            Places.of(stack.value_layer, stack.value_class, count),
        )

    @property
    def size(self) -> int:
        """How many layers are left out."""
        return self.stop - self.start

    def lacks(self, places: Places) -> Bools:
        """Which ops, or values, are left out."""
        missing: Bools = (places.layers >= self.start) & (places.layers < self.stop)
        return missing

    def standing_for(self, places: Places, items: Ints) -> Ints:
        """What stands for some that are left out."""
        layers = (places.layers[items] - self.start) % PERIOD + self.start - PERIOD
        return places.at(items, layers)

    def is_regular(self, reads: Reads) -> Bools:
        """Whether each read is that of an inner layer, of a layer near by."""
        of, to = self.ops.layers[reads.owners], self.values.layers[reads.values]
        is_inner = (of >= EDGE) & (of < self.num_layers - EDGE)
        regular: Bools = is_inner & (to != NONE) & (abs(to - of) <= EDGE)
        return regular

    def closed(self, values: Ints, of: Ints) -> Ints:
        """What is read once the layers around the gap are neighbours.

        Args:
            values: What is read.
            of: The layers that read it.
        """
        found = values.copy()
        missing = np.flatnonzero(self.lacks(self.values)[values])
        move = np.where(of[missing] < self.start, self.size, -self.size)
        # What is left out itself reads what it may; nobody asks.
        layers = self.values.layers[values[missing]] + move
        layers = layers.clip(0, self.num_layers - 1)
        found[missing] = self.values.at(values[missing], layers)
        return found

    def opened(self, ops: Ints, values: Ints) -> Ints:
        """What ops read, or make, in the whole: undoes `closed`."""
        of, to = self.ops.layers[ops], self.values.layers[values]
        is_placed = (of != NONE) & (to != NONE)
        move = np.where(of < self.start, -self.size, self.size)
        moves = is_placed & (abs(to - of) > EDGE) & (abs(to + move - of) <= EDGE)
        found = values.copy()
        found[moves] = self.values.at(values[moves], (to + move)[moves])
        return found

    def instances(self, ops: Ints, values: Ints) -> tuple[Ints, Ints, Ints]:
        """What is left out for which some pairs stand; see `Folded.instances`.

        Ops and values are of the whole.
        """
        of = self.ops.layers[ops]
        at = np.flatnonzero((of >= self.start - PERIOD) & (of < self.start))
        ops, values, of = ops[at], values[at], of[at]
        to = self.values.layers[values]
        moves = (to != NONE) & (abs(to - of) <= EDGE)
        steps = np.arange(PERIOD, self.size + 1, PERIOD)
        found = np.repeat(values[:, None], len(steps), axis=1)
        found[moves] = self.values.at(values[moves, None], to[moves, None] + steps)
        found_ops = self.ops.at(ops[:, None], of[:, None] + steps)
        return np.repeat(at, len(steps)), found_ops.ravel(), found.ravel()
