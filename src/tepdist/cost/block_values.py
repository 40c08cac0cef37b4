"""Where the values of one block are, and which kernels a read of one goes to.

A value that is read in a sharding that needs communication has a copy for each such
sharding; one that is fused stands for what it is made of.
"""

from collections.abc import Iterable

from tepdist.analysis.nodes import BROADCAST, source_sharding
from tepdist.cost.fills import Fill, Fills
from tepdist.cost.fusion import Fusion
from tepdist.cost.kernel_graph import GraphBuilder, Reads
from tepdist.cost.layouts import CONVOLUTION
from tepdist.cost.placed import Placed
from tepdist.program.graph import DTYPE_BYTES, Op
from tepdist.sharding import Sharding

Read = tuple[int, Sharding]


class Shared:
    """What all blocks of one program share.

    Attributes:
        placed: The program.
        fusion: What has a buffer.
        fills: Constants that are scattered into.
    """

    def __init__(self, placed: Placed) -> None:
        self.placed, self.fusion, self.fills = placed, Fusion(placed), Fills(placed)
        self._sources: dict[tuple[str, Sharding], Sharding] = {}

    def source_sharding(self, broadcast: Op, wanted: Sharding) -> Sharding:
        """How a broadcast's operand must lie for the result to lie as wanted."""
        key = (broadcast.signature, wanted)
        if key not in self._sources:
            self._sources[key] = source_sharding(self.placed.program, broadcast, wanted)
        return self._sources[key]


class BlockValues:
    """Values of one block while its kernels are added.

    Attributes:
        kernel: Value to the kernel whose result it is.
        outside: Reads of values that were made before the block.
    """

    def __init__(self, shared: Shared, graph: GraphBuilder, parent: int | None) -> None:
        """Starts without values.

        Args:
            shared: Of the program.
            graph: That copies are added to.
            parent: The op whose block it is; None at the top.
        """
        self._shared, self._fusion, self._parent = shared, shared.fusion, parent
        self._placed, self._program = shared.placed, shared.placed.program
        self._graph = graph
        self.kernel: dict[int, int] = {}
        self.outside: list[Read] = []
        # Value to the kernel whose buffer it is in, and others that it waits for.
        self._held: dict[int, tuple[int, ...]] = {}
        self._copies: dict[Read, tuple[int, ...]] = {}
        self._transposed: dict[Read, int] = {}
        self._narrow: dict[int, int] = {}
        self._converted: dict[int, int] = {}
        self._fused: dict[int, Reads] = {}
        self._fills: dict[Fill | None, int] = {}

    def hold(self, value: int, kernel: int, *others: int) -> None:
        """A value is in a kernel's buffer, once others have run too."""
        self.kernel[value] = kernel
        self._held[value] = (kernel, *others)

    def rename(self, value: int, kernels: tuple[int, ...]) -> None:
        """A value is where another one is."""
        self._held[value] = kernels

    def fuse(self, value: int, reads: Reads) -> None:
        """Who reads a value may read what it is made of."""
        self._fused[value] = reads

    def is_held_as(self, value: int, wanted: Sharding) -> bool:
        """Whether a value is in memory in a sharding, or is copied to be."""
        lies = self._placed.values[value]
        return value in self._held and (
            wanted == lies or self._fusion.moves(value, wanted)
        )

    def op_reads(self, op: Op) -> Reads:
        """Kernels that an op reads, and whether it reads them pointwise."""
        is_pointwise = op.index in self._placed.pointwise
        wanted = self._placed.operands[op.index]
        again = self._fusion.is_taken_in(op) and op.index not in self._fusion.factored
        reads: dict[tuple[int, bool], None] = {}
        for position, (value, sharding) in enumerate(
            zip(op.operands, wanted, strict=True)
        ):
            if self._fusion.transposes(op, position):
                found = self._read_transposed(value, sharding)
            elif self._is_narrowed(value, sharding, op):
                found = self._read_narrow(value)
            elif op.kind == CONVOLUTION:
                found = self._read_converted(op, value, sharding)
                found = found or self.read(value, sharding, again=again)
            else:
                found = self.read(value, sharding, again=again)
            for at, below in found:
                reads[at, is_pointwise and below] = None
        return tuple(reads)

    def read_all(self, reads: Iterable[Read]) -> list[tuple[int, bool]]:
        """What several reads go to."""
        return [found for value, wanted in reads for found in self.read(value, wanted)]

    def read(self, value: int, wanted: Sharding, *, again: bool = False) -> Reads:
        """Kernels that a read of a value goes to, and whether it is pointwise.

        Args:
            value: That is read.
            wanted: How it is read.
            again: Whether the reader may compute it again.
        """
        if self._fusion.scope(value) != self._parent:
            self.outside.append((value, wanted))
            return ()
        if value in self._fusion.generated:
            fill = self._shared.fills.read(value, wanted)
            if fill is not None:
                return ((self._read_fill(fill, value, wanted), False),)
            producer = self._program.values[value].producer
            assert producer is not None
            return self._read_source(self._program.ops[producer], wanted)
        moves = self._fusion.moves(value, wanted)
        computed = again and not moves and value in self._fusion.duplicated
        if computed or value not in self._held:
            return self._fused[value]
        if not moves:
            lies = self._placed.values[value]
            is_alike = wanted is lies or wanted == lies
            return tuple((at, is_alike) for at in self._held[value])
        key = (value, wanted)
        if key not in self._copies:
            bytes_ = self._placed.bytes_(value, wanted)
            self._copies[key] = self._add_copy(value, wanted, bytes_)
        return tuple((at, True) for at in self._copies[key])

    def read_captured(self, outside: Iterable[Read]) -> list[tuple[int, bool]]:
        """What a loop reads of what was made before it: handed in, so in memory.

        But for constants, which are made in it.
        """
        reads: list[tuple[int, bool]] = []
        for value, wanted in dict.fromkeys(outside):
            found = self.read(value, wanted)
            if self._is_broadcast_here(value):
                bytes_ = self._placed.bytes_(value, wanted)
                found = ((self._graph.add(found, bytes_), False),)
            reads += found
        return reads

    def read_start(self, op: Op) -> Reads:
        """What a gradient of pooling starts from, if others read such a constant."""
        fill = self._fills.get(self._shared.fills.scattered_into(op))
        return () if fill is None else ((self._graph.start_from(fill), True),)

    def _is_broadcast_here(self, value: int) -> bool:
        producer = self._program.values[value].producer
        return (
            producer is not None
            and self._program.ops[producer].kind == BROADCAST
            and self._fusion.scope(value) == self._parent
            and not self._is_constant(self._program.ops[producer].operands[0])
        )

    def _is_constant(self, value: int) -> bool:
        producer = self._program.values[value].producer
        return producer is not None and not self._program.ops[producer].operands

    def _read_transposed(self, value: int, wanted: Sharding) -> Reads:
        key = (value, wanted)
        if key not in self._transposed:
            reads = [(at, False) for at, _ in self.read(value, wanted, again=True)]
            is_wide = self._placed.is_widened(value)
            bytes_ = self._placed.bytes_(value, wanted, is_wide=is_wide)
            self._transposed[key] = self._graph.add(reads, bytes_)
        return ((self._transposed[key], True),)

    def _read_converted(self, op: Op, value: int, wanted: Sharding) -> Reads:
        """What an op reads that an argument is converted to for it alone, if it is."""
        argument = self._fusion.converts_again(op, value)
        if argument is None or self._fusion.moves(argument, wanted):
            return ()
        if value not in self._converted:
            bytes_ = self._placed.bytes_(value, wanted)
            reads = self.read(argument, wanted)
            self._converted[value] = self._graph.add(reads, bytes_)
            self._graph.conversions[self._converted[value]] = self.kernel[argument]
        return ((self._converted[value], False),)

    def _is_narrowed(self, value: int, wanted: Sharding, op: Op) -> bool:
        """Whether an op reads a value as bf16 that others read as f32."""
        fusion = self._fusion
        is_wide = value in fusion.wide and not fusion.computes(op)
        return is_wide and not fusion.moves(value, wanted)

    def _read_narrow(self, value: int) -> Reads:
        """A value that is computed with as f32, as the bf16 that it is."""
        if value not in self._narrow:
            lies = self._placed.values[value]
            bytes_ = self._placed.bytes_(value, lies)
            reads = [(at, False) for at, _ in self.read(value, lies)]
            self._narrow[value] = self._graph.add(reads, bytes_)
        return ((self._narrow[value], False),)

    def _add_copy(self, value: int, wanted: Sharding, bytes_: int) -> tuple[int, ...]:
        """A value in another sharding."""
        if self._placed.platform == "cpu":
            return (self._graph.add([(at, False) for at in self._held[value]], bytes_),)
        steps = self._fusion.steps(value, wanted)
        key = (steps[-1].kind, (steps[-1].mesh_axes, self._program.values[value].dtype))
        itemsize = DTYPE_BYTES.get(self._program.values[value].dtype, 0)
        payload = steps[-1].bytes_ * itemsize
        return self._graph.add_collective(
            self._held[value], bytes_, key=key, payload=payload
        )

    def _read_fill(self, fill: Fill, value: int, wanted: Sharding) -> int:
        """A constant that is scattered into, so in memory for whoever reads it."""
        if fill not in self._fills:
            bytes_ = self._placed.bytes_(value, wanted)
            self._fills[fill] = self._graph.add((), bytes_)
        return self._fills[fill]

    def _read_source(self, op: Op, wanted: Sharding) -> Reads:
        """What a generated value is made of."""
        if not op.operands:
            return ()
        (source,) = op.operands
        lies = self._shared.source_sharding(op, wanted)
        return tuple((at, False) for at, _ in self.read(source, lies))
