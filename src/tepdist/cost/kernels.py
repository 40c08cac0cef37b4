"""What one device runs of a stage: kernels, copies and reductions with their sizes.

A kernel is an op together with the values that are fused into it. A value that is read
in a sharding that needs communication has a copy for each such sharding; an op whose
factor is summed over devices makes whole partial results, which a collective then
reduces.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tepdist.analysis.nodes import BARRIER, is_generated, source_dims
from tepdist.analysis.schedule import Kernels
from tepdist.cost.layouts import transposed
from tepdist.cost.resharding import resharding_steps
from tepdist.program.graph import Op, Program
from tepdist.sharding import Mesh, Sharding

# Ops that any kernel takes in, besides the pointwise ones: they only pick elements.
_MOVING = frozenset(
    f"stablehlo.{kind}"
    for kind in [
        "bitcast_convert",
        "broadcast_in_dim",
        "concatenate",
        "dynamic_slice",
        "pad",
        "reshape",
        "reverse",
        "slice",
        "transpose",
    ]
) | {BARRIER}
# Kernels that take in what they read.
_FUSING = frozenset({"stablehlo.reduce"})
# Ops that write into their first operand if nothing reads it later.
_UPDATING = frozenset({"stablehlo.dynamic_update_slice", "stablehlo.scatter"})
SELECT_AND_SCATTER = "stablehlo.select_and_scatter"
INDEX_BYTES = 4


@dataclass(frozen=True, slots=True)
class Reduction:
    """A reduction of an op's result over devices.

    Attributes:
        kind: As in `Collective.kind`.
        mesh_axes: Axes it runs over.
        bytes_: Of the result on one device before it [B].
    """

    kind: str
    mesh_axes: tuple[str, ...]
    bytes_: int


@dataclass(frozen=True, slots=True)
class Graph:
    """Kernels of one block.

    Attributes:
        kernels: Themselves.
        keys: Collectives to what those that may be combined share.
        updates: Argument to the kernel that writes over it.
    """

    kernels: Kernels
    keys: Mapping[int, Hashable]
    updates: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Placed:
    """A program with the sharding of everything, and what the compiler does with it.

    Attributes:
        program: The program.
        mesh: Where it lies.
        values: Sharding of each value.
        operands: For each op the sharding that it wants each operand in.
        results: Sharding that each result is handed out in.
        partial: Op to the reduction of its result over devices.
        expensive: Kinds of pointwise op that are not computed twice.
        lent: Values that are written into the buffer of an argument, to the argument.
        pointwise: Ops whose results depend on matching elements of operands alone.
        platform: Of the devices.
        alignment: Every buffer is a multiple of it [B].
    """

    program: Program
    mesh: Mesh
    values: Sequence[Sharding]
    operands: Sequence[Sequence[Sharding]]
    results: Sequence[Sharding]
    partial: Mapping[int, Reduction]
    expensive: Collection[str]
    lent: Mapping[int, int]
    pointwise: Collection[int]
    platform: str
    alignment: int

    def bytes_(self, value: int, sharding: Sharding) -> int:
        """Size of one device's shard, aligned [B]."""
        shards = sharding.num_shards(self.mesh)
        local = self.program.values[value].bytes_ / shards
        return math.ceil(local / self.alignment) * self.alignment


Read = tuple[int, Sharding]
# Kernels that are read, and whether each element is read for the matching one alone.
Reads = tuple[tuple[int, bool], ...]
# A block -> its peak [B].
Peak = Callable[[Graph], int]


def device_kernels(placed: Placed, peak: Peak) -> Graph:
    """The kernels of the top level; loops as one kernel each.

    Args:
        placed: Everything's place.
        peak: How much the inside of a loop needs while it runs.
    """
    graph = _Program(placed, peak)
    results = zip(placed.program.results, placed.results, strict=True)
    block = _Block(graph, None, placed.program.arguments)
    return block.build(tuple(results))


class _Program:
    """What all blocks of one program share."""

    def __init__(self, placed: Placed, peak: Peak) -> None:
        self.placed, self.peak = placed, peak
        self.program = placed.program
        self._moves: dict[Read, bool] = {}
        self._duplicated: dict[int, bool] = {}
        self.blocks: dict[int | None, list[Op]] = defaultdict(list)
        for op in self.program.ops:
            self.blocks[op.parent].append(op)
        self.generated = [
            is_generated(self.program, value.index) for value in self.program.values
        ]
        self.stored = self._find_stored()

    def moves(self, value: int, wanted: Sharding) -> bool:
        """Whether reading a value like this takes communication."""
        has = self.placed.values[value]
        if wanted == has or self.generated[value]:
            return False
        key = (value, wanted)
        if key not in self._moves:
            shape = self.program.values[value].shape
            steps = resharding_steps(
                has, wanted, shape, itemsize=1, mesh=self.placed.mesh
            )
            self._moves[key] = bool(steps)
        return self._moves[key]

    def transposes(self, op: Op, position: int) -> bool:
        """Whether an op reads an operand through a transposed copy."""
        return transposed(op, position, platform=self.placed.platform)

    def _find_stored(self) -> set[int]:
        """Values that have a buffer of their own."""
        program, placed = self.program, self.placed
        stored = set(program.results)
        users: list[list[Op]] = [[] for _ in program.values]
        for op in program.ops:
            for value in op.operands:
                users[value].append(op)
        for op in program.ops:
            for region in op.regions:
                stored.update(region.yields)
                stored.update(region.arguments)
            if op.kind in _FUSING and placed.platform == "cpu":
                stored.update(self._reduced(op, users))
                continue
            takes_in = self.is_taken_in(op) or op.kind in _FUSING
            for position, value in enumerate(op.operands):
                wanted = placed.operands[op.index][position]
                if self.moves(value, wanted):
                    stored.add(value)
                elif not takes_in and not self.transposes(op, position):
                    stored.add(value)
        for op in program.ops:
            if not self.is_taken_in(op):
                stored.update(op.results)
            elif op.kind in placed.expensive:
                stored.update(v for v in op.results if len(users[v]) > 1)
        return stored

    def is_taken_in(self, op: Op) -> bool:
        """Whether the kernels that read an op's result can compute it."""
        return op.index in self.placed.pointwise or op.kind in _MOVING

    def is_duplicated(self, value: int) -> bool:
        """Whether kernels compute a value again that exists for others."""
        producer = self.program.values[value].producer
        if self.placed.platform != "cpu" or producer is None:
            return False
        if value not in self._duplicated:
            op = self.program.ops[producer]
            is_cheap = self.is_taken_in(op) and op.kind not in self.placed.expensive
            rank = len(self.program.values[value].shape)
            sources = self._sources(op) if is_cheap else ()
            large = {v for v in sources if len(self.program.values[v].shape) >= rank}
            self._duplicated[value] = is_cheap and len(large) <= 1
        return self._duplicated[value]

    def _sources(self, op: Op) -> set[int]:
        """What an op's result is made of in memory."""
        found: set[int] = set()
        for value in op.operands:
            producer = self.program.values[value].producer
            if self.generated[value]:
                continue
            if producer is None or (
                value in self.stored and not self.is_duplicated(value)
            ):
                found.add(value)
            else:
                found |= self._sources(self.program.ops[producer])
        return found

    def _reduced(self, op: Op, users: Sequence[Sequence[Op]]) -> set[int]:
        """What a reduction of XLA:CPU reads: it takes in no more than a product."""
        found = set()
        for value in op.operands:
            producer = self.program.values[value].producer
            if producer is None:
                continue
            made_by = self.program.ops[producer]
            if made_by.kind == "stablehlo.multiply" and all(
                user.kind in _FUSING for user in users[value]
            ):
                found.update(made_by.operands)
            else:
                found.add(value)
        return found

    def scope(self, value: int) -> int | None:
        """Op in whose region a value is defined; None at the top."""
        producer = self.program.values[value].producer
        if producer is None:
            return None
        op = self.program.ops[producer]
        return op.parent if value in op.results else op.index


class _Block:
    """The kernels of one block, one after the other in program order."""

    def __init__(
        self, graph: _Program, parent: int | None, given: Iterable[int]
    ) -> None:
        self._graph, self._parent = graph, parent
        self._placed, self._program = graph.placed, graph.program
        self._number: dict[int, int] = {}
        self._copies: dict[Read, int] = {}
        self._transposed: dict[Read, int] = {}
        self._fused: dict[int, tuple[tuple[int, bool], ...]] = {}
        self.outside: list[Read] = []
        self._keys: dict[int, Hashable] = {}
        self._operands: list[tuple[int, ...]] = []
        self._bytes: list[int] = []
        self._is_given: list[bool] = []
        self._inner: list[int] = []
        self._reusable: list[tuple[int, ...]] = []
        for value in given:
            bytes_ = self._placed.bytes_(value, self._placed.values[value])
            self._number[value] = self._add((), bytes_, is_given=True)

    def build(self, results: Sequence[Read]) -> Graph:
        for op in self._graph.blocks[self._parent]:
            if self._is_kernel(op):
                self._add_op(op)
        roots = self._read_all(results)
        users: list[list[int]] = [[] for _ in self._bytes]
        for at, operands in enumerate(self._operands):
            for operand in operands:
                users[operand].append(at)
        updates = {
            self._number[argument]: self._number[value]
            for value, argument in self._placed.lent.items()
            if self._parent is None and value in self._number
        }
        kernels = Kernels(
            operands=tuple(self._operands),
            users=tuple(map(tuple, users)),
            bytes_=tuple(self._bytes),
            is_given=tuple(self._is_given),
            roots=tuple(dict.fromkeys(at for at, _ in roots)),
            inner_bytes=tuple(self._inner),
            reusable=tuple(self._reusable),
        )
        return Graph(kernels, self._keys, updates)

    def _is_kernel(self, op: Op) -> bool:
        if not op.results:
            return True
        stored, generated = self._graph.stored, self._graph.generated
        return any(v in stored and not generated[v] for v in op.results)

    def _add(
        self,
        reads: Iterable[tuple[int, bool]],
        bytes_: int,
        *,
        is_given: bool = False,
        inner: int = 0,
    ) -> int:
        reads = tuple(reads)
        # Written over only if no read of it is more than pointwise.
        others = {at for at, is_pointwise in reads if not is_pointwise}
        if self._placed.platform != "cpu":
            # A reduction and what is done with it are one kernel: it reads twice.
            others.update(*(self._operands[at] for at in others))
        self._operands.append(tuple(dict.fromkeys(at for at, _ in reads)))
        self._reusable.append(
            tuple(dict.fromkeys(at for at, _ in reads if at not in others))
        )
        self._bytes.append(bytes_)
        self._is_given.append(is_given)
        self._inner.append(inner)
        return len(self._bytes) - 1

    def _add_op(self, op: Op) -> None:
        placed = self._placed
        if op.regions:
            self._add_loop(op)
            return
        reads = self._op_reads(op)
        if op.kind in _UPDATING:
            reads = self._updating_reads(op, reads)
        if op.kind == SELECT_AND_SCATTER and placed.platform == "cpu":
            reads = self._scattering_reads(op)
        partial = placed.partial.get(op.index)
        bytes_ = sum(self._result_bytes(op, value) for value in op.results)
        if partial is None:
            at = self._add(reads, bytes_)
            self._book_sibling(op, at)
        else:
            made = math.ceil(partial.bytes_ / placed.alignment) * placed.alignment
            at = self._add(reads, made)
            in_place = partial.kind == "all_reduce" and placed.platform != "cpu"
            at = self._add([(at, in_place)], bytes_)
            self._keys[at] = (partial.kind, partial.mesh_axes)
        for value in op.results:
            self._number[value] = at

    def _book_sibling(self, op: Op, at: int) -> None:
        """XLA:GPU computes what goes over one operand in one kernel."""
        is_loop = op.index in self._placed.pointwise or op.kind in _FUSING
        if self._placed.platform == "cpu" or not is_loop or not self._operands[at]:
            return
        largest = max(self._operands[at], key=self._bytes.__getitem__)
        self._keys[at] = ("reads", largest)

    def _updating_reads(self, op: Op, reads: Sequence[tuple[int, bool]]) -> Reads:
        """What an op reads that writes into its first operand, made anew if need be."""
        first, wanted = op.operands[0], self._placed.operands[op.index][0]
        if self._graph.generated[first]:
            made = self._add((), self._placed.bytes_(first, wanted))
            return (*((at, False) for at, _ in reads), (made, True))
        written = {at for at, _ in self._read(first, wanted)}
        return tuple((at, at in written) for at, _ in reads)

    def _scattering_reads(self, op: Op) -> Reads:
        """XLA:CPU finds the place of each window's element first, then scatters."""
        image, source = op.operands[:2]
        wanted = self._placed.operands[op.index]
        index_bytes = len(self._program.values[image].shape) * INDEX_BYTES
        image_elements, elements = (
            self._program.values[value].num_elements
            // sharding.num_shards(self._placed.mesh)
            for value, sharding in zip((image, source), wanted, strict=False)
        )
        places = self._add(
            [(at, False) for at, _ in self._read(image, wanted[0])],
            elements * index_bytes,
            inner=image_elements * index_bytes,
        )
        (result,) = op.results
        made = self._add((), self._result_bytes(op, result))
        read = self._read(source, wanted[1])
        return ((places, False), *((at, False) for at, _ in read), (made, True))

    def _result_bytes(self, op: Op, value: int) -> int:
        if value in self._placed.lent or value not in self._graph.stored:
            return 0
        if op.kind in _UPDATING and op.parent is not None:
            carried = self._program.values[op.operands[0]].producer == op.parent
            if carried:
                return 0
        return self._placed.bytes_(value, self._placed.values[value])

    def _add_loop(self, op: Op) -> None:
        """A loop or branch: its results, and what its inside needs."""
        placed = self._placed
        inside: list[Read] = []
        inner = 0
        given = [v for region in op.regions for v in region.arguments]
        block = _Block(self._graph, op.index, given)
        yields = [
            (value, placed.values[result])
            for region in op.result_regions
            for value, result in zip(region.yields, op.results, strict=True)
        ]
        inner = self._graph.peak(block.build(yields))
        inside = block.outside
        reads = [*self._op_reads(op), *self._read_all(inside)]
        bytes_ = sum(
            self._placed.bytes_(value, placed.values[value])
            for position, value in enumerate(op.results)
            if value not in placed.lent and not _is_kept(op, position)
        )
        at = self._add(reads, bytes_, inner=inner)
        for value in op.results:
            self._number[value] = at

    def _op_reads(self, op: Op) -> tuple[tuple[int, bool], ...]:
        is_pointwise = op.index in self._placed.pointwise
        wanted = self._placed.operands[op.index]
        again = self._graph.is_taken_in(op)
        return tuple(
            (at, is_pointwise and below)
            for position, (value, sharding) in enumerate(
                zip(op.operands, wanted, strict=True)
            )
            for at, below in (
                self._read_transposed(value, sharding)
                if self._graph.transposes(op, position)
                else self._read(value, sharding, again=again)
            )
        )

    def _read_transposed(
        self, value: int, wanted: Sharding
    ) -> Sequence[tuple[int, bool]]:
        key = (value, wanted)
        if key not in self._transposed:
            reads = [(at, False) for at, _ in self._read(value, wanted, again=True)]
            bytes_ = self._placed.bytes_(value, wanted)
            self._transposed[key] = self._add(reads, bytes_)
        return ((self._transposed[key], True),)

    def _read_all(self, reads: Iterable[Read]) -> list[tuple[int, bool]]:
        return [found for value, wanted in reads for found in self._read(value, wanted)]

    def _read(
        self, value: int, wanted: Sharding, *, again: bool = False
    ) -> Sequence[tuple[int, bool]]:
        """Kernels that a read of a value goes to, and whether it is pointwise.

        Args:
            value: That is read.
            wanted: How it is read.
            again: Whether the reader may compute it again.
        """
        if self._graph.scope(value) != self._parent:
            self.outside.append((value, wanted))
            return ()
        producer = self._program.values[value].producer
        if producer is not None and self._graph.generated[value]:
            return self._read_source(self._program.ops[producer], wanted)
        computed = again and self._graph.is_duplicated(value)
        if computed and self._graph.moves(value, wanted):
            computed = False
        if value not in self._number or computed:
            if value not in self._fused:
                assert producer is not None, "arguments are given"
                self._fused[value] = self._reads_of_fused(value, producer)
            return self._fused[value]
        if not self._graph.moves(value, wanted):
            return ((self._number[value], wanted == self._placed.values[value]),)
        key = (value, wanted)
        if key not in self._copies:
            bytes_ = self._placed.bytes_(value, wanted)
            self._copies[key] = self._add([(self._number[value], False)], bytes_)
        return ((self._copies[key], True),)

    def _read_source(self, op: Op, wanted: Sharding) -> Sequence[tuple[int, bool]]:
        """What a generated value is made of."""
        if not op.operands:
            return ()
        (source,) = op.operands
        rank = len(self._program.values[source].shape)
        lies = Sharding.replicated(rank)
        if op.rule is not None:
            lies = Sharding(source_dims(op.rule, wanted.dims))
        return tuple((at, False) for at, _ in self._read(source, lies))

    def _reads_of_fused(
        self, value: int, producer: int
    ) -> tuple[tuple[int, bool], ...]:
        op = self._program.ops[producer]
        if op.kind != BARRIER:
            return self._op_reads(op)
        position = op.results.index(value)
        wanted = self._placed.operands[op.index][position]
        return tuple(self._read(op.operands[position], wanted))


def _is_kept(op: Op, position: int) -> bool:
    """Whether a loop hands a value on unchanged."""
    return any(
        region.yields[position] == region.arguments[position]
        for region in op.result_regions
        if region.arguments
    )
