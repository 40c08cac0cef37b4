"""What one device runs of a stage: kernels, copies and reductions with their sizes.

A kernel is an op together with the values that are fused into it. A value that is read
in a sharding that needs communication has a copy for each such sharding; an op whose
factor is summed over devices makes whole partial results, which a collective then
reduces.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from tepdist.analysis.nodes import BARRIER, BROADCAST, source_sharding
from tepdist.cost.fills import Fill, Fills
from tepdist.cost.fusion import REDUCE, SELECT_AND_SCATTER, Fusion
from tepdist.cost.kernel_graph import Graph, GraphBuilder, Reads
from tepdist.cost.kernel_times import kernel_s
from tepdist.cost.layouts import CONVOLUTION, TRANSPOSING
from tepdist.cost.placed import Placed
from tepdist.program.graph import DTYPE_BYTES, Op
from tepdist.sharding import Sharding

# Ops that write into their first operand if nothing reads it later.
_UPDATING = frozenset({"stablehlo.dynamic_update_slice", "stablehlo.scatter"})
# Ops that give what they read another name or shape, in the same place.
_RENAMING = frozenset({BARRIER, "stablehlo.reshape"})
# Ops that pick elements: those that pick all of them do nothing.
_PICKING = frozenset({"stablehlo.pad", "stablehlo.slice"})
_INDEX_BYTES = 4


Read = tuple[int, Sharding]
# A block -> its peak [B].
Peak = Callable[[Graph], int]


def device_kernels(placed: Placed, peak: Peak) -> Graph:
    """The kernels of the top level; loops as one kernel each.

    Args:
        placed: Everything's place.
        peak: How much the inside of a loop needs while it runs.
    """
    results = zip(placed.program.results, placed.results, strict=True)
    return _Blocks(placed, peak).build(None, placed.program.arguments, results)[0]


class _Blocks:
    """What all blocks of one program share."""

    def __init__(self, placed: Placed, peak: Peak) -> None:
        self.placed, self.peak = placed, peak
        self.fusion = Fusion(placed)
        self._sources: dict[tuple[str, Sharding], Sharding] = {}
        self.fills = Fills(placed)
        self._ops: dict[int | None, list[Op]] = defaultdict(list)
        for op in placed.program.ops:
            self._ops[op.parent].append(op)

    def build(
        self, parent: int | None, given: Sequence[int], results: Iterable[Read]
    ) -> tuple[Graph, list[Read]]:
        """The graph of a block, and what it reads from outside."""
        block = _Block(self, parent, given)
        for op in self._ops[parent]:
            block.add(op)
        return block.finish(results), block.outside

    def source_sharding(self, broadcast: Op, wanted: Sharding) -> Sharding:
        """How a broadcast's operand must lie for the result to lie as wanted."""
        key = (broadcast.signature, wanted)
        if key not in self._sources:
            self._sources[key] = source_sharding(self.placed.program, broadcast, wanted)
        return self._sources[key]


class _Block:
    """The kernels of one block, one after the other in program order."""

    def __init__(
        self, blocks: _Blocks, parent: int | None, given: Iterable[int]
    ) -> None:
        self._blocks, self._fusion, self._parent = blocks, blocks.fusion, parent
        self._placed, self._program = blocks.placed, blocks.placed.program
        self._number: dict[int, int] = {}
        # Value to the kernel whose buffer it is in, and others that it waits for.
        self._held: dict[int, tuple[int, ...]] = {}
        self._copies: dict[Read, tuple[int, ...]] = {}
        self._transposed: dict[Read, int] = {}
        self._narrow: dict[int, int] = {}
        self._fused: dict[int, Reads] = {}
        self._fills: dict[Fill | None, int] = {}
        self.outside: list[Read] = []
        self._graph = GraphBuilder(self._placed)
        for value in given:
            bytes_ = self._placed.bytes_(value, self._placed.values[value])
            self._hold(value, self._graph.add((), bytes_, is_given=True))

    def add(self, op: Op) -> None:
        """Adds the next op: a kernel of its own, or part of those that read it."""
        if op.regions:
            self._add_loop(op)
            return
        if not self._fusion.generated.isdisjoint(op.results):
            return
        if self._is_renaming(op):
            self._rename(op)
            return
        is_kernel = not op.results or not self._fusion.stored.isdisjoint(op.results)
        if self._fusion.is_taken_in(op):
            for value in op.results:
                self._fused[value] = self._op_reads(op)
        if is_kernel:
            self._add_kernel(op)

    def finish(self, results: Iterable[Read]) -> Graph:
        """The block's graph.

        Args:
            results: What it hands out, and how that lies.
        """
        roots = self._read_all(results)
        updates = {
            self._number[argument]: self._number[value]
            for value, argument in self._placed.lent.items()
            if self._parent is None and value in self._number
        }
        return self._graph.finish(dict.fromkeys(at for at, _ in roots), updates)

    def _add_kernel(self, op: Op) -> None:
        placed = self._placed
        reads = self._op_reads(op)
        if op.kind in _UPDATING:
            reads = self._updating_reads(op, reads)
        if op.kind == SELECT_AND_SCATTER:
            reads = self._scattering_reads(op)
        partial = placed.partial.get(op.index)
        bytes_ = sum(self._result_bytes(op, value) for value in op.results)
        seconds = self._kernel_s(op, reads)
        held: tuple[int, ...]
        if partial is None:
            # A library hands out its work space with a convolution's result.
            is_bundled = op.kind == CONVOLUTION or len(op.results) > 1
            reads = self._before_rounding(op, reads)
            at = self._graph.add(reads, bytes_, seconds=seconds, is_bundled=is_bundled)
            held = (at,)
        else:
            made = math.ceil(partial.bytes_ / placed.alignment) * placed.alignment
            at = self._graph.add(reads, made, seconds=seconds)
            dtype = self._program.values[op.results[0]].dtype
            key = (partial.kind, (partial.mesh_axes, dtype))
            held = self._graph.add_collective(
                (at,), bytes_, key=key, payload=partial.bytes_
            )
        self._note_elements(op, at)
        for value in op.results:
            self._number[value] = held[0]
            self._held[value] = held

    def _before_rounding(self, op: Op, reads: Reads) -> Reads:
        """What makes a kernel's result: on CPUs a product that is wider than it."""
        placed = self._placed
        if op.kind not in TRANSPOSING or not placed.is_widened(op.results[0]):
            return reads
        (value,) = op.results
        bytes_ = placed.bytes_(value, placed.values[value], is_wide=True)
        return ((self._graph.add(reads, bytes_), False),)

    def _note_elements(self, op: Op, kernel: int) -> None:
        placed = self._placed
        if placed.platform == "cpu" or not op.results:
            return
        values = self._program.values
        if op.kind == REDUCE:
            value, lies = op.operands[0], placed.operands[op.index][0]
            noted = self._graph.reductions
            if self._fusion.keeps_rows(op):
                self._graph.rows.add(kernel)
        elif self._fusion.is_taken_in(op):
            value = op.results[0]
            lies, noted = placed.values[value], self._graph.loops
        else:
            return
        noted[kernel] = lies.shard_elements(values[value].shape, placed.mesh)

    def _kernel_s(self, op: Op, reads: Reads) -> float:
        """Time of a kernel [s]; nobody asks for it on CPUs."""
        if self._placed.platform == "cpu":
            return 0.0
        read = sum(self._graph.bytes_[at] for at in {at for at, _ in reads})
        placed = self._placed
        made = sum(placed.bytes_(value, placed.values[value]) for value in op.results)
        return kernel_s(op, placed, read + made)

    def _hold(self, value: int, kernel: int) -> None:
        self._number[value] = kernel
        self._held[value] = (kernel,)

    def _is_renaming(self, op: Op) -> bool:
        if op.kind not in _PICKING or self._placed.platform == "cpu":
            return op.kind in _RENAMING
        values = self._program.values
        return values[op.operands[0]].shape == values[op.results[0]].shape

    def _rename(self, op: Op) -> None:
        """A reshape or barrier: its results lie where its operands do.

        Unless it is dropped, a barrier also holds back whoever reads its results until
        all of its operands are there.
        """
        first: tuple[int, ...] = ()
        if op.kind == BARRIER and not self._placed.drops_barriers:
            first = (self._graph.add(self._op_reads(op), 0),)
        wanted = self._placed.operands[op.index]
        for value, result, sharding in zip(
            op.operands, op.results, wanted, strict=False
        ):
            reads = tuple(self._read(value, sharding))
            self._fused[result] = (*reads, *((at, False) for at in first))
            if result not in self._fusion.stored:
                continue
            is_in_place = result not in self._fusion.handed_on and (
                value in self._held
                and (
                    sharding == self._placed.values[value]
                    or self._fusion.moves(value, sharding)
                )
            )
            if is_in_place:
                self._held[result] = (*(at for at, _ in reads), *first)
            else:
                bytes_ = self._result_bytes(op, result)
                self._hold(result, self._graph.add(self._fused[result], bytes_))

    def _updating_reads(self, op: Op, reads: Reads) -> Reads:
        """What an op reads that writes into its first operand, made anew if need be."""
        first, wanted = op.operands[0], self._placed.operands[op.index][0]
        if first in self._fusion.generated:
            made = self._graph.add((), self._placed.bytes_(first, wanted))
            return (*((at, False) for at, _ in reads), (made, True))
        written = {at for at, _ in self._read(first, wanted)}
        return tuple((at, at in written) for at, _ in reads)

    def _scattering_reads(self, op: Op) -> Reads:
        """The place of each window's element is found first, then scattered to.

        A place is an index for each dim. XLA:CPU puts them into one tensor, made from
        a tensor of indices for each dim; XLA:GPU keeps them apart, the element with
        them.
        """
        image, source = op.operands[:2]
        wanted = self._placed.operands[op.index]
        rank = len(self._program.values[image].shape)
        image_elements, elements = (
            sharding.shard_elements(
                self._program.values[value].shape, self._placed.mesh
            )
            for value, sharding in zip((image, source), wanted, strict=False)
        )
        bytes_ = elements * rank * _INDEX_BYTES
        read_image = [(at, False) for at, _ in self._read(image, wanted[0])]
        if self._placed.platform == "cpu":
            indices = [
                self._graph.add((), image_elements * _INDEX_BYTES) for _ in range(rank)
            ]
            read_image += [(at, False) for at in indices]
        else:
            itemsize = DTYPE_BYTES.get(self._program.values[image].dtype, 0)
            bytes_ += math.ceil(elements * itemsize)
        places = self._graph.add(read_image, bytes_, is_bundled=True)
        (result,) = op.results
        # What it starts from is a copy, if others read that too.
        start = self._fills.get(self._blocks.fills.scattered_into(op))
        read_start = () if start is None else ((start, True),)
        made = self._graph.add(read_start, self._result_bytes(op, result))
        read = self._read(source, wanted[1])
        return ((places, False), *((at, False) for at, _ in read), (made, True))

    def _result_bytes(self, op: Op, value: int) -> int:
        if value in self._placed.lent or value not in self._fusion.stored:
            return 0
        if op.kind in _UPDATING and op.parent is not None:
            carried = self._program.values[op.operands[0]].producer == op.parent
            if carried:
                return 0
        bytes_ = self._placed.bytes_(value, self._placed.values[value])
        return 2 * bytes_ if value in self._fusion.wide else bytes_

    def _add_loop(self, op: Op) -> None:
        """A loop or branch: its results, and what its inside needs."""
        placed = self._placed
        given = [v for region in op.regions for v in region.arguments]
        yields = [
            (value, placed.values[result])
            for region in op.result_regions
            for value, result in zip(region.yields, op.results, strict=True)
        ]
        graph, outside = self._blocks.build(op.index, given, yields)
        inner = self._blocks.peak(graph)
        reads = [*self._op_reads(op), *self._read_captured(outside)]
        bytes_ = sum(
            self._placed.bytes_(value, placed.values[value])
            for position, value in enumerate(op.results)
            if value not in placed.lent and not op.keeps(position)
        )
        is_alone = bool(graph.kernels.ends)
        at = self._graph.add(reads, bytes_, inner=inner, seconds=0.0, is_alone=is_alone)
        for value in op.results:
            self._hold(value, at)

    def _read_captured(self, outside: Iterable[Read]) -> list[tuple[int, bool]]:
        """What a loop reads of what was made before it: handed in, so in memory.

        But for constants, which are made in it.
        """
        reads: list[tuple[int, bool]] = []
        for value, wanted in dict.fromkeys(outside):
            found = self._read(value, wanted)
            if self._is_broadcast_here(value):
                bytes_ = self._placed.bytes_(value, wanted)
                found = ((self._graph.add(found, bytes_), False),)
            reads += found
        return reads

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

    def _op_reads(self, op: Op) -> Reads:
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
            else:
                found = self._read(value, sharding, again=again)
            for at, below in found:
                reads[at, is_pointwise and below] = None
        return tuple(reads)

    def _read_transposed(self, value: int, wanted: Sharding) -> Reads:
        key = (value, wanted)
        if key not in self._transposed:
            reads = [(at, False) for at, _ in self._read(value, wanted, again=True)]
            is_wide = self._placed.is_widened(value)
            bytes_ = self._placed.bytes_(value, wanted, is_wide=is_wide)
            self._transposed[key] = self._graph.add(reads, bytes_)
        return ((self._transposed[key], True),)

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
            reads = [(at, False) for at, _ in self._read(value, lies)]
            self._narrow[value] = self._graph.add(reads, bytes_)
        return ((self._narrow[value], False),)

    def _read_all(self, reads: Iterable[Read]) -> list[tuple[int, bool]]:
        return [found for value, wanted in reads for found in self._read(value, wanted)]

    def _read(self, value: int, wanted: Sharding, *, again: bool = False) -> Reads:
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
            fill = self._blocks.fills.read(value, wanted)
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
        lies = self._blocks.source_sharding(op, wanted)
        return tuple((at, False) for at, _ in self._read(source, lies))
