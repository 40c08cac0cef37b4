"""A program with a place for everything: what a footprint is counted from."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tepdist.cost.pricing import Pricing
from tepdist.program.graph import DTYPE_BYTES, Program
from tepdist.sharding import Mesh, Sharding

# XLA:CPU computes in f32 what is narrower; an old one drops the roundings in between.
_WIDENED = frozenset({"bf16", "f16"})
# Release of jaxlib whose XLA:CPU keeps optimization barriers and roundings.
_NEW = (0, 12)


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
        partial: Op to the reductions of its result over devices, in order.
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
    partial: Mapping[int, Sequence[Reduction]]
    expensive: Collection[str]
    lent: Mapping[int, int]
    pointwise: Collection[int]
    platform: str
    alignment: int
    pricing: Pricing

    @property
    def drops_barriers(self) -> bool:
        """Whether the compiler drops optimization barriers before it fuses."""
        return self.platform == "cpu" and not self._is_new

    def is_widened(self, value: int) -> bool:
        """Whether products read and make a value wider than it is held."""
        if self.platform != "cpu" or not self._is_new:
            return False
        return self.program.values[value].dtype in _WIDENED

    @property
    def _is_new(self) -> bool:
        return _release(self.program.jaxlib_version) >= _NEW

    def bytes_(self, value: int, sharding: Sharding, *, is_wide: bool = False) -> int:
        """Size of one device's shard, aligned [B].

        Args:
            value: Any.
            sharding: How it lies.
            is_wide: Whether it is what products read and make.
        """
        described = self.program.values[value]
        elements = sharding.shard_elements(described.shape, self.mesh)
        local = elements * DTYPE_BYTES.get(described.dtype, 0)
        is_made = described.producer is not None
        is_held_wide = self.platform == "cpu" and not self._is_new
        if is_wide or (is_made and is_held_wide and described.dtype in _WIDENED):
            local *= 2
        return math.ceil(local / self.alignment) * self.alignment


@lru_cache(maxsize=8)
def _release(version: str) -> tuple[int, ...]:
    """Of ``0.10.2`` the first two numbers."""
    return tuple(int(part) for part in version.split(".")[:2])
