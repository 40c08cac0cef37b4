"""What one device runs of a stage: kernels, copies and reductions with their sizes.

A kernel is an op together with the values that are fused into it. An op whose factor is
summed over devices makes whole partial results, which a collective then reduces.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from tepdist.analysis.nodes import BARRIER
from tepdist.cost.block_values import BlockValues, Read, Shared
from tepdist.cost.fusion import REDUCE, SELECT_AND_SCATTER
from tepdist.cost.kernel_graph import Graph, GraphBuilder, Reads
from tepdist.cost.kernel_times import kernel_s
from tepdist.cost.layouts import CONVOLUTION, TRANSPOSING
from tepdist.cost.placed import Placed
from tepdist.program.graph import DTYPE_BYTES, Op

# Ops that write into their first operand if nothing reads it later.
_UPDATING = frozenset({"stablehlo.dynamic_update_slice", "stablehlo.scatter"})
# Ops that give what they read another name or shape, in the same place.
_RENAMING = frozenset({BARRIER, "stablehlo.reshape"})
# Ops that pick elements: those that pick all of them do nothing.
_PICKING = frozenset({"stablehlo.pad", "stablehlo.slice"})
_INDEX_BYTES = 4

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
    """All blocks of one program."""

    def __init__(self, placed: Placed, peak: Peak) -> None:
        self.shared, self.peak = Shared(placed), peak
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
        return block.finish(results)


class _Block:
    """The kernels of one block, one after the other in program order."""

    def __init__(
        self, blocks: _Blocks, parent: int | None, given: Iterable[int]
    ) -> None:
        self._blocks, self._fusion, self._parent = blocks, blocks.shared.fusion, parent
        self._placed = blocks.shared.placed
        self._program = self._placed.program
        self._graph = GraphBuilder(self._placed)
        self._values = BlockValues(blocks.shared, self._graph, parent)
        for value in given:
            bytes_ = self._placed.bytes_(value, self._placed.values[value])
            self._values.hold(value, self._graph.add((), bytes_, is_given=True))

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
                self._values.fuse(value, self._values.op_reads(op))
        if is_kernel:
            self._add_kernel(op)

    def finish(self, results: Iterable[Read]) -> tuple[Graph, list[Read]]:
        """The block's graph, and what it reads from outside.

        Args:
            results: What it hands out, and how that lies.
        """
        roots = self._values.read_all(results)
        kernel = self._values.kernel
        updates = {
            kernel[argument]: kernel[value]
            for value, argument in self._placed.lent.items()
            if self._parent is None and value in kernel
        }
        graph = self._graph.finish(dict.fromkeys(at for at, _ in roots), updates)
        return graph, self._values.outside

    def _add_kernel(self, op: Op) -> None:
        placed = self._placed
        reads = self._values.op_reads(op)
        if op.kind in _UPDATING:
            reads = self._updating_reads(op, reads)
        if op.kind == SELECT_AND_SCATTER:
            reads = self._scattering_reads(op)
        bytes_ = sum(self._result_bytes(op, value) for value in op.results)
        partial = placed.partial.get(op.index, ())
        made = self._aligned(partial[0].bytes_) if partial else bytes_
        runs = self._add_runs(op, reads, made)
        if runs is not None:
            reads = ((runs, False),)
        at = self._graph.add(
            self._before_rounding(op, reads),
            made,
            seconds=self._kernel_s(op, reads),
            # A library hands out its work space with a convolution's result.
            is_bundled=op.kind == CONVOLUTION or len(op.results) > 1,
        )
        self._note_elements(op, at if runs is None else runs)
        held: tuple[int, ...] = (at,)
        for position, reduction in enumerate(partial):
            rest = partial[position + 1 :]
            left = self._aligned(rest[0].bytes_) if rest else bytes_
            dtype = self._program.values[op.results[0]].dtype
            key = (reduction.kind, (reduction.mesh_axes, dtype))
            held = self._graph.add_collective(
                held, left, key=key, payload=reduction.bytes_
            )
        for value in op.results:
            self._values.hold(value, *held)

    def _add_runs(self, op: Op, reads: Reads, made: int) -> int | None:
        """The first kernel of a reduction that accelerators run in two.

        Args:
            op: Any.
            reads: Of the op.
            made: By the second kernel [B].
        """
        if op.kind != REDUCE or self._placed.platform == "cpu":
            return None
        left = self._fusion.left_over(op)
        if left is None:
            return None
        return self._graph.add(reads, left * made, seconds=self._kernel_s(op, reads))

    def _aligned(self, bytes_: int) -> int:
        alignment = self._placed.alignment
        return math.ceil(bytes_ / alignment) * alignment

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
            first = (self._graph.add(self._values.op_reads(op), 0),)
        wanted = self._placed.operands[op.index]
        for value, result, sharding in zip(
            op.operands, op.results, wanted, strict=False
        ):
            read = self._values.read(value, sharding)
            reads = (*read, *((at, False) for at in first))
            self._values.fuse(result, reads)
            if result not in self._fusion.stored:
                continue
            is_handed_on = result in self._fusion.handed_on
            if not is_handed_on and self._values.is_held_as(value, sharding):
                self._values.rename(result, (*(at for at, _ in read), *first))
            else:
                bytes_ = self._result_bytes(op, result)
                self._values.hold(result, self._graph.add(reads, bytes_))

    def _updating_reads(self, op: Op, reads: Reads) -> Reads:
        """What an op reads that writes into its first operand, made anew if need be."""
        first, wanted = op.operands[0], self._placed.operands[op.index][0]
        if first in self._fusion.generated:
            made = self._graph.add((), self._placed.bytes_(first, wanted))
            return (*((at, False) for at, _ in reads), (made, True))
        written = {at for at, _ in self._values.read(first, wanted)}
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
        read_image = [(at, False) for at, _ in self._values.read(image, wanted[0])]
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
        start = self._values.read_start(op)
        made = self._graph.add(start, self._result_bytes(op, result))
        read = self._values.read(source, wanted[1])
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
        reads = [*self._values.op_reads(op), *self._values.read_captured(outside)]
        bytes_ = sum(
            self._placed.bytes_(value, placed.values[value])
            for position, value in enumerate(op.results)
            if value not in placed.lent and not op.keeps(position)
        )
        is_alone = bool(graph.kernels.ends)
        at = self._graph.add(reads, bytes_, inner=inner, seconds=0.0, is_alone=is_alone)
        for value in op.results:
            self._values.hold(value, at)
