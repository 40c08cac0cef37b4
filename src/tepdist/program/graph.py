"""A program as a frozen graph of ops, values and factors.

Ops are numbered in the walk order of the normalised module (an op before the ops of
its regions), so that an index means the same in the graph, in a plan and in the
bytes. Nothing here touches MLIR.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from tepdist.sharding import Mesh

DTYPE_BYTES: Mapping[str, float] = MappingProxyType(
    {
        **dict.fromkeys(("i1", "i8", "ui8"), 1),
        **dict.fromkeys(("i2", "ui2", "i4", "ui4", "f4E2M1FN"), 0.5),
        **dict.fromkeys(("f8E4M3FN", "f8E5M2", "f8E4M3B11FNUZ", "f8E4M3"), 1),
        **dict.fromkeys(("f8E4M3FNUZ", "f8E5M2FNUZ", "f8E3M4", "f8E8M0FNU"), 1),
        **dict.fromkeys(("i16", "ui16", "f16", "bf16"), 2),
        **dict.fromkeys(("i32", "ui32", "f32"), 4),
        **dict.fromkeys(("i64", "ui64", "f64", "complex<f32>"), 8),
        "complex<f64>": 16,
    }
)
TOKEN = "token"
# Ops whose regions hold ops that are planned like any other.
CONTROL_FLOW = frozenset({"stablehlo.while", "stablehlo.case", "stablehlo.if"})
# Collectives that a program states itself, and what a plan calls them.
COLLECTIVES: Mapping[str, str] = MappingProxyType(
    {
        "stablehlo.all_gather": "all_gather",
        "stablehlo.all_reduce": "all_reduce",
        "stablehlo.all_to_all": "all_to_all",
        "stablehlo.collective_broadcast": "collective_permute",
        "stablehlo.collective_permute": "collective_permute",
        "stablehlo.reduce_scatter": "reduce_scatter",
    }
)
CONSTRAINT = "sdy.sharding_constraint"
CUSTOM_CALL = "stablehlo.custom_call"
MANUAL = "sdy.manual_computation"


@dataclass(frozen=True, slots=True)
class Value:
    """One SSA value.

    Attributes:
        index: Position in `Program.values`.
        name: Unique: the argument's role name, else ``dot_general.17`` (op kind and
            op index; ``while.3#1`` for further results, ``while.3/0`` for arguments
            of its regions).
        shape: Extents of its dims.
        dtype: MLIR element type, e.g. ``f32``; ``token`` for a token.
        producer: Op that defines it (for a region argument, the op that owns the
            region); None for arguments of the program.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    producer: int | None

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes_(self) -> int:
        """Size of the whole tensor [B]."""
        return _tensor_bytes(self.shape, self.dtype)


# A 96-layer GPT asks 300,000 times about 80 types.
@lru_cache(maxsize=2**14)
def _tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.ceil(math.prod(shape) * DTYPE_BYTES.get(dtype, 0))


@dataclass(frozen=True, slots=True)
class Halo:
    """Rows at the edges of its neighbours' pieces that a device needs of an operand.

    Attributes:
        dim: Of the op's first operand.
        factor: That cuts the dim.
        low: Rows before its own.
        high: Rows after its own.
    """

    dim: int
    factor: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Rule:
    """How an op's tensors share factors: Shardy's sharding rule as data.

    ``([i, k], [k, j]) -> ([i, j])`` has three factors. A dim made of several factors
    (through a reshape) lists them major first.

    Attributes:
        sizes: Extent of each factor.
        operands: Per operand, per dim, the factors of that dim.
        results: Per result likewise.
        reduction: Factors summed (or max-ed, ...) away: sharding one leaves partial
            results to be reduced over its axes.
        blocked: Factors that may not be sharded: Shardy's need_replication and
            permutation factors, for which XLA would move data inside the op.
        uneven: Factors that may be cut into parts of which the last is smaller: XLA
            pads them, moves no more than for equal parts and masks what it pads.
        per_device: Whether a sharded op is to be run by each device on its shards,
            because XLA would gather its operands.
        pinned: Mesh axes that the program has placed itself, each with the factor that
            it must cut; None for none.
        halos: What devices exchange where a window's factor is cut.
    """

    sizes: tuple[int, ...]
    operands: tuple[tuple[tuple[int, ...], ...], ...]
    results: tuple[tuple[tuple[int, ...], ...], ...]
    reduction: frozenset[int] = frozenset()
    blocked: frozenset[int] = frozenset()
    uneven: frozenset[int] = frozenset()
    per_device: bool = False
    pinned: tuple[tuple[str, int | None], ...] = ()
    halos: tuple[Halo, ...] = ()


@dataclass(frozen=True, slots=True)
class Region:
    """A region whose ops are planned like any other (of while, case, if).

    Attributes:
        arguments: Value indices of its block arguments.
        yields: Value indices of its terminator's operands.
    """

    arguments: tuple[int, ...]
    yields: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """One operation.

    Attributes:
        index: Position in `Program.ops`.
        kind: e.g. ``stablehlo.dot_general``.
        operands: Value indices.
        results: Value indices.
        rule: None when Shardy knows none: such an op is replicated (whole operands,
            whole results on every device) and named in the plan.
        signature: Equal for ops of equal kind, attributes, body and types: what makes
            two layers alike.
        scope: Where the user wrote it (JAX's name stack), for people; "" if unknown.
        parent: Op whose region it lies in; None at the top.
        regions: Planned regions; empty for all but while, case and if. The bodies of
            reduce, scatter, sort... are part of the op.
        trips: For a while the number of iterations if it can be told; else None.
        body: What each device runs on its shards, if the op is a manual computation: a
            program of local shapes, without bytes of its own.
        axes: Mesh axes that a collective in such a body runs over.
    """

    index: int
    kind: str
    operands: tuple[int, ...]
    results: tuple[int, ...]
    rule: Rule | None
    signature: str
    scope: str = ""
    parent: int | None = None
    regions: tuple[Region, ...] = ()
    trips: int | None = None
    body: "Program | None" = None
    axes: tuple[str, ...] = ()

    @property
    def result_regions(self) -> tuple[Region, ...]:
        """The regions that yield the op's results: all but a while's condition."""
        return self.regions[1:] if self.kind == "stablehlo.while" else self.regions

    def keeps(self, position: int) -> bool:
        """Whether the op is a loop that hands this operand on unchanged."""
        return any(
            region.yields[position] == region.arguments[position]
            for region in self.result_regions
            if region.arguments
        )


@dataclass(frozen=True, slots=True)
class Program:
    """A normalised program: its bytes and what they say.

    Attributes:
        name: For people.
        module: Normalised MLIR bytecode that the op and value indices refer to:
            one public ``main``, no calls, canonical, no common subexpressions.
        jaxlib_version: Of the jaxlib that wrote `module`.
        ops: In walk order.
        values: Arguments first.
        arguments: Value indices of main's arguments.
        results: Value indices of main's results.
        mesh: What the program's own shardings are on; None if it states none.
        argument_rules: For each argument how it may lie if the program says so itself,
            else None; empty if it says so of none.
    """

    name: str
    module: bytes = field(repr=False)
    jaxlib_version: str
    ops: tuple[Op, ...] = field(repr=False)
    values: tuple[Value, ...] = field(repr=False)
    arguments: tuple[int, ...] = field(repr=False)
    results: tuple[int, ...] = field(repr=False)
    mesh: Mesh | None = None
    argument_rules: tuple[Rule | None, ...] = field(default=(), repr=False)
