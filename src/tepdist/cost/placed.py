"""A program with a place for everything: what a footprint is counted from."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tepdist.cost.pricing import Pricing
from tepdist.program.graph import Program
from tepdist.sharding import Mesh, Sharding

# XLA:CPU computes in f32 what is narrower, and drops the roundings in between.
_WIDENED = frozenset({"bf16", "f16"})


@dataclass(frozen=True, slots=True)
class Reduction:
    """A reduction of an op's result over devices.

    Attributes:
        kind: As in `Collective.kind`.
        mesh_axes: Axes it runs over.
        bytes_: Of the result on one device before it [B].
        seconds: That it takes alone.
    """

    kind: str
    mesh_axes: tuple[str, ...]
    bytes_: int
    seconds: float


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
        pricing: Of the mesh.
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
    pricing: Pricing

    def bytes_(self, value: int, sharding: Sharding) -> int:
        """Size of one device's shard, aligned [B]."""
        described = self.program.values[value]
        local = described.bytes_ / sharding.num_shards(self.mesh)
        is_made = described.producer is not None
        if is_made and self.platform == "cpu" and described.dtype in _WIDENED:
            local *= 2
        return math.ceil(local / self.alignment) * self.alignment
