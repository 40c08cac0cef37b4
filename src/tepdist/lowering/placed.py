"""How an op lies that each device runs on its own shards."""

from dataclasses import dataclass

from jaxlib.mlir import ir

from tepdist.program.graph import Rule
from tepdist.sharding import Mesh, Sharding


@dataclass(frozen=True, slots=True)
class Placed:
    """How an op lies on its mesh.

    Attributes:
        rule: The op's.
        mesh: Of the shardings.
        operands: How its operands lie.
        results: How its results lie.
    """

    rule: Rule
    mesh: Mesh
    operands: tuple[Sharding, ...]
    results: tuple[Sharding, ...]

    def reduced(self) -> list[tuple[str, ...]]:
        """Axes that cut each factor that is reduced, where any do."""
        found = []
        for factor in sorted(self.rule.reduction):
            for dims, sharding in zip(self.rule.operands, self.operands, strict=True):
                axes = [
                    a for d, a in zip(dims, sharding.dims, strict=True) if factor in d
                ]
                if axes and axes[0]:
                    found.append(axes[0])
                    break
        return found

    def scattered(self) -> tuple[str, ...]:
        """Axes over which the only result is reduced and cut, in mesh order."""
        (result,) = self.results
        summed = {axis for axes in self.reduced() for axis in axes}
        return tuple(a for a in self.mesh.names if a in summed and a in result.axes)

    def partial(self) -> Sharding:
        """How the only result lies before it is reduced."""
        (result,) = self.results
        gone = self.scattered()
        return Sharding(
            tuple(tuple(a for a in axes if a not in gone) for axes in result.dims)
        )


def local_type(type_: ir.Type, sharding: Sharding, mesh: Mesh) -> ir.Type:
    """The type of one device's shard."""
    whole = ir.RankedTensorType(type_)
    shape = sharding.local_shape(tuple(whole.shape), mesh)
    return ir.RankedTensorType.get(shape, whole.element_type)
