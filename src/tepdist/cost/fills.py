"""Constants that gradients of pooling start from, and that others read too.

XLA knows one tensor of zeros of a kind. What is scattered into has a buffer, and what
has a buffer for one reader has it for all: the zeros that a rectifier compares with are
in memory from its first run to the gradient of the pooling behind it.
"""

from tepdist.analysis.nodes import BROADCAST
from tepdist.cost.fusion import SELECT_AND_SCATTER
from tepdist.cost.placed import Placed
from tepdist.program.graph import Op
from tepdist.sharding import Sharding

# A constant's signature, and the shape and sharding that it fills.
Fill = tuple[str, tuple[int, ...], Sharding]


class Fills:
    """Those of one program."""

    def __init__(self, placed: Placed) -> None:
        """Finds what is scattered into.

        Args:
            placed: The program; on CPUs none is kept.
        """
        self._placed, self._program = placed, placed.program
        self._scattered = {
            self.scattered_into(op)
            for op in placed.program.ops
            if op.kind == SELECT_AND_SCATTER and placed.platform != "cpu"
        }

    def scattered_into(self, op: Op) -> Fill | None:
        """What a gradient of pooling starts from; None if that is no constant."""
        image, _, scalar = op.operands
        lies = self._placed.operands[op.index][0]
        return self._fill(scalar, self._program.values[image].shape, lies)

    def read(self, value: int, wanted: Sharding) -> Fill | None:
        """What a read of a value is of, if that is also scattered into."""
        producer = self._program.values[value].producer
        if producer is None or not self._scattered:
            return None
        op = self._program.ops[producer]
        if op.kind != BROADCAST:
            return None
        shape = self._program.values[value].shape
        found = self._fill(op.operands[0], shape, wanted)
        return found if found in self._scattered else None

    def _fill(self, scalar: int, shape: tuple[int, ...], lies: Sharding) -> Fill | None:
        producer = self._program.values[scalar].producer
        if producer is None or self._program.ops[producer].operands:
            return None
        return self._program.ops[producer].signature, shape, lies
