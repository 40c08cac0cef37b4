"""Which values of a program have a buffer, and which exist inside kernels only.

Source:
    XLA's ``instruction_fusion`` (CPU) and ``priority_fusion`` (GPU), and the programs
    that come out.
"""

from collections.abc import Sequence

from tepdist.analysis.nodes import BARRIER, generated_values
from tepdist.cost.cpu_reductions import CpuReduction, cpu_reduction
from tepdist.cost.gpu_reductions import keeps_rows, left_over
from tepdist.cost.layouts import CONVOLUTION, TRANSPOSING, transposed
from tepdist.cost.placed import Placed
from tepdist.cost.resharding import resharding_steps
from tepdist.cost.resharding_walk import Step
from tepdist.program.graph import Op, Program
from tepdist.sharding import Sharding

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
REDUCE = "stablehlo.reduce"
SELECT_AND_SCATTER = "stablehlo.select_and_scatter"
_FUSING = frozenset({REDUCE})
# Outside XLA:CPU pooling does so too, and its gradient with the image.
_POOLING = frozenset({"stablehlo.reduce_window", SELECT_AND_SCATTER})
_PRODUCT = "stablehlo.multiply"
# Chooses elements as they are, so in half precision too.
_SELECT = "stablehlo.select"
_CONVERT = "stablehlo.convert"
# What lies between a parameter and a kernel that is a conversion of it.
_TURNED = frozenset({_CONVERT, "stablehlo.reverse"})
_EXPONENTIAL = "stablehlo.exponential"
# GPUs that compute in f32 what is bf16.
BEFORE_HOPPER = frozenset({"v100-16g", "a100-40g", "a100-80g"})
# More sources than that are not told apart.
_MOST_SOURCES = 8


class Fusion:
    """What a compiler fuses of one placed program.

    Attributes:
        generated: Values of which each use makes its own.
        stored: Values that have a buffer, their own or one that they are renamed in.
        handed_on: Those that a program, loop or branch hands out.
        duplicated: Stored values that kernels compute again rather than read.
        wide: Stored bf16 values that kernels on GPUs without bf16 arithmetic hand to
            one another as f32, which they compute in.
        factored: Products that reductions take in, with what they multiply in memory.
    """

    def __init__(self, placed: Placed) -> None:
        self._placed, self._program = placed, placed.program
        self._steps: dict[tuple[int, Sharding], Sequence[Step]] = {}
        self._transposes: dict[tuple[str, int], bool] = {}
        self._users: list[list[Op]] = [[] for _ in self._program.values]
        for op in self._program.ops:
            for value in op.operands:
                self._users[value].append(op)
        self.generated = generated_values(self._program)
        self._taken_in = [
            op.index in placed.pointwise or op.kind in _MOVING
            for op in self._program.ops
        ]
        self._scopes = _scopes(self._program)
        self.factored: set[int] = set()
        self.handed_on = set(placed.program.results)
        for op in placed.program.ops:
            for region in op.regions:
                self.handed_on.update(region.yields)
        self.stored = self._find_stored()
        self.wide = self._find_wide()
        self.duplicated = self._find_duplicated() if placed.platform == "cpu" else set()

    def moves(self, value: int, wanted: Sharding) -> bool:
        """Whether reading a value like this takes communication."""
        return bool(self.steps(value, wanted))

    def steps(self, value: int, wanted: Sharding) -> Sequence[Step]:
        """The communication that reading a value like this takes."""
        has = self._placed.values[value]
        if wanted is has or value in self.generated or wanted == has:
            return ()
        key = (value, wanted)
        if key not in self._steps:
            shape = self._program.values[value].shape
            mesh = self._placed.mesh
            steps = resharding_steps(has, wanted, shape, itemsize=1, mesh=mesh)
            self._steps[key] = steps
        return self._steps[key]

    def transposes(self, op: Op, position: int) -> bool:
        """Whether an op reads an operand through a transposed or widened copy."""
        if op.kind not in TRANSPOSING:
            return False
        if self._placed.is_widened(op.operands[position]):
            return True
        key = (op.signature, position)
        if key not in self._transposes:
            platform = self._placed.platform
            self._transposes[key] = transposed(op, position, platform=platform)
        return self._transposes[key]

    def reverses(self, op: Op, value: int) -> bool:
        """Whether a library's convolution reads a value as it is, not reversed."""
        producer = self._program.values[value].producer
        return (
            op.kind == CONVOLUTION
            and self._placed.platform != "cpu"
            and producer is not None
            and self._program.ops[producer].kind == "stablehlo.reverse"
        )

    def converts_again(self, op: Op, value: int) -> int | None:
        """The argument that a library's convolution reads a conversion of its own of.

        The gradient of an image from a 1x1 kernel is a convolution like any other, with
        the kernel's features swapped: another layout than the forward convolution
        reads, of which XLA:GPU makes a second conversion.

        Args:
            op: Any.
            value: Its operand.
        """
        if not self.reverses(op, value):
            return None
        values = self._program.values
        *window, read, made = values[value].shape
        images = values[op.operands[0]].shape, values[op.results[0]].shape
        if max(window) > 1 or read == made or images[0][1:-1] != images[1][1:-1]:
            return None
        source, is_converted = value, False
        while (producer := values[source].producer) is not None:
            made_by = self._program.ops[producer]
            if made_by.kind not in _TURNED:
                return None
            is_converted |= made_by.kind == _CONVERT
            (source,) = made_by.operands
        is_argument = source in self._program.arguments
        return source if is_argument and is_converted else None

    def is_taken_in(self, op: Op) -> bool:
        """Whether the kernels that read an op's result can compute it."""
        return self._taken_in[op.index]

    def keeps_rows(self, op: Op) -> bool:
        """Whether a reduction goes along rows that a kernel keeps while it goes on."""
        return keeps_rows(op, self._local_shape(op))

    def left_over(self, op: Op) -> int | None:
        """What the first of two kernels of a reduction leaves; None if one does."""
        return left_over(op, self._local_shape(op))

    def _local_shape(self, op: Op) -> tuple[int, ...]:
        """Shape of what an op reads first, on one device."""
        shape = self._program.values[op.operands[0]].shape
        lies = self._placed.operands[op.index][0]
        return lies.local_shape(shape, self._placed.mesh)

    def scope(self, value: int) -> int | None:
        """Op in whose region a value is defined; None at the top."""
        return self._scopes[value]

    def _find_stored(self) -> set[int]:
        stored = set(self.handed_on)
        for op in self._program.ops:
            for region in op.regions:
                stored.update(region.arguments)
            stored.update(self._needed_by(op))
            if not self.is_taken_in(op):
                stored.update(op.results)
            elif op.kind in self._placed.expensive:
                stored.update(v for v in op.results if self._is_kept(op, v))
        return stored

    def _is_kept(self, op: Op, value: int) -> bool:
        """Whether what takes long to compute is stored rather than computed again.

        XLA:GPU computes an exponential again where that takes no conversion, along
        rows that no kernel can keep.
        """
        users = self._users[value]
        if len(users) < 2 or op.kind != _EXPONENTIAL or self._placed.platform != "gpu":
            return len(users) > 1
        if all(self.keeps_rows(user) for user in users if user.kind == REDUCE):
            return True
        return self._is_converted(op)

    def _is_converted(self, op: Op) -> bool:
        """Whether a kernel that computes an op converts what it reads."""
        pending, seen = [op], {op.index}
        while pending:
            now = pending.pop()
            if now.kind == _CONVERT:
                return True
            for value in now.operands:
                producer = self._program.values[value].producer
                if producer is None or producer in seen or not self._taken_in[producer]:
                    continue
                seen.add(producer)
                pending.append(self._program.ops[producer])
        return False

    def _needed_by(self, op: Op) -> set[int]:
        """Operands that must be in memory for an op to read them."""
        wanted = self._placed.operands[op.index]
        values = self._placed.values
        needed = {
            value
            for value, sharding in zip(op.operands, wanted, strict=True)
            if sharding is not values[value] and self.moves(value, sharding)
        }
        is_cpu = self._placed.platform == "cpu"
        if op.kind == BARRIER and not self._placed.drops_barriers:
            needed.update(op.operands)
        elif op.kind in _FUSING and is_cpu:
            needed |= self._reduced(op)
        elif op.kind in _POOLING and not is_cpu:
            needed.update(op.operands[1:])
        elif not self.is_taken_in(op) and op.kind not in _FUSING:
            needed.update(
                value
                for position, value in enumerate(op.operands)
                if not self.transposes(op, position) and not self.reverses(op, value)
            )
        return needed

    def _reduced(self, op: Op) -> set[int]:
        """What a reduction of XLA:CPU reads from memory."""
        dtype = self._program.values[op.operands[0]].dtype
        kind = cpu_reduction(op, dtype, self._local_shape(op))
        if kind is CpuReduction.LOOP:
            return set()
        if kind is CpuReduction.TREE:
            return set(op.operands)
        found: set[int] = set()
        for value in op.operands:
            producer = self._program.values[value].producer
            if producer is None:
                continue
            made_by = self._program.ops[producer]
            if made_by.kind == _PRODUCT and all(
                user.kind in _FUSING for user in self._users[value]
            ):
                found.update(made_by.operands)
                self.factored.add(producer)
            else:
                found.add(value)
        return found

    def _find_wide(self) -> set[int]:
        device = self._placed.pricing.cluster.device
        if device.kind not in BEFORE_HOPPER:
            return set()
        return {
            value
            for op in self._program.ops
            if op.index in self._placed.pointwise and op.kind != _SELECT
            for value in op.results
            if value in self.stored
            and value not in self.handed_on
            and self._program.values[value].dtype == "bf16"
            and any(self.computes(user) for user in self._users[value])
        }

    def computes(self, op: Op) -> bool:
        """Whether an op computes with elements in ways that fuse."""
        return op.index in self._placed.pointwise or op.kind in _FUSING

    def _find_duplicated(self) -> set[int]:
        """Cheap values made of one other of their rank, in XLA:CPU."""
        values = self._program.values
        duplicated: set[int] = set()
        sources: dict[int, frozenset[int]] = {}
        for op in self._program.ops:
            if not self.is_taken_in(op):
                continue
            made_of = self._sources(op.operands, sources)
            is_cheap = op.kind not in self._placed.expensive
            for value in op.results:
                rank = len(values[value].shape)
                large = [v for v in made_of if len(values[v].shape) >= rank]
                if value in self.stored and is_cheap and len(large) <= 1:
                    duplicated.add(value)
                if value not in self.stored or value in duplicated:
                    sources[value] = made_of
        return duplicated

    def _sources(
        self, operands: Sequence[int], sources: dict[int, frozenset[int]]
    ) -> frozenset[int]:
        """What a result is made of in memory."""
        found: set[int] = set()
        for value in operands:
            if value not in self.generated:
                found |= sources.get(value, frozenset({value}))
        return frozenset(sorted(found)[:_MOST_SOURCES])


def _scopes(program: Program) -> list[int | None]:
    """For each value the op in whose region it is defined; None at the top."""
    scopes: list[int | None] = [None] * len(program.values)
    for op in program.ops:
        if op.parent is not None:
            for value in op.results:
                scopes[value] = op.parent
        for region in op.regions:
            for value in region.arguments:
                scopes[value] = op.index
    return scopes
