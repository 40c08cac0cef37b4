"""What ops read, as arrays: for what is asked of all ops of a program at a time."""

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tepdist.program.graph import Program

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Reads:
    """What ops read: operands, and what the regions of control flow yield.

    Attributes:
        values: All of it, op by op, [n].
        owners: The op of each, [n].
        starts: Where the reads of each op start, and the end, [num ops + 1].
        producers: The op that makes each value, -1 for arguments, [num values].
    """

    values: Ints
    owners: Ints
    starts: Ints
    producers: Ints

    @staticmethod
    def of(program: Program) -> "Reads":
        """All reads of a program."""
        read = [
            op.operands
            if not op.regions
            else (*op.operands, *chain.from_iterable(r.yields for r in op.regions))
            for op in program.ops
        ]
        counts = np.fromiter(map(len, read), np.int64, len(read))
        values = np.fromiter(chain.from_iterable(read), np.int64, int(counts.sum()))
        producers = [
            -1 if value.producer is None else value.producer for value in program.values
        ]
        return Reads(
            values,
            np.repeat(np.arange(len(read)), counts),
            np.concatenate([[0], np.cumsum(counts)]),
            np.array(producers, np.int64),
        )

    def of_ops(self, start: int, stop: int) -> Ints:
        """What the ops from one to before another read, [n]."""
        return self.values[self.starts[start] : self.starts[stop]]
