"""Rules of what a program itself has placed: constraints, manual regions, arguments.

Each mesh axis that cuts something has a factor of its own, which that axis and no
other must cut; what is left of a dim is another factor, free where the dim is open.
So what is closed leaves the search one choice.
"""

from collections.abc import Iterable, Sequence
from typing import cast

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy

from tepdist.errors import ProgramError
from tepdist.program.graph import CONSTRAINT, MANUAL, Rule
from tepdist.program.module import AnyValue
from tepdist.program.stated import MESH_NAME, Stated, per_value, read_sharding
from tepdist.sharding import Mesh

Dims = tuple[tuple[int, ...], ...]
PINNED = frozenset({CONSTRAINT, MANUAL})


def pinned_rule(op: ir.Operation, mesh: Mesh) -> Rule:
    """The rule of a constraint or a manual computation on the program's mesh.

    Raises:
        ProgramError: if a dim is cut by axes that do not divide it.
    """
    meshes = {MESH_NAME: mesh}
    if op.name == CONSTRAINT:
        stated = read_sharding(op.attributes["sharding"], meshes)
        return held_rule(_shape(op.operands[0]), stated)
    pins = _Pins(mesh, manual_axes(op, mesh))
    operands = per_value(op.attributes["in_shardings"], meshes)
    results = per_value(op.attributes["out_shardings"], meshes)
    return pins.rule(
        [pins.dims(_shape(v), s) for v, s in zip(op.operands, operands, strict=True)],
        [pins.dims(_shape(v), s) for v, s in zip(op.results, results, strict=True)],
    )


def held_rule(shape: tuple[int, ...], stated: Stated) -> Rule:
    """The rule of something that has one tensor and leaves it as it is.

    Raises:
        ProgramError: if a dim is cut by axes that do not divide it.
    """
    cut = {axis for axes in stated.dims for axis in axes}
    pins = _Pins(stated.mesh, [name for name in stated.mesh.names if name in cut])
    dims = pins.dims(shape, stated)
    return pins.rule([dims], [dims], whole=stated.whole)


def manual_axes(region: ir.Operation, mesh: Mesh) -> tuple[str, ...]:
    """The axes of a manual computation that are longer than 1, in mesh order."""
    stated = sdy.ManualAxesAttr(region.attributes["manual_axes"])
    names = set(cast(Iterable[str], stated))
    return tuple(n for n in mesh.names if n in names and mesh.axis_size(n) > 1)


class _Pins:
    """Factors of one rule while they are given out."""

    def __init__(self, mesh: Mesh, axes: Sequence[str]) -> None:
        self._mesh = mesh
        self._factor_of = {axis: factor for factor, axis in enumerate(axes)}
        self._sizes = [mesh.axis_size(axis) for axis in axes]
        self._blocked: set[int] = set()

    def dims(self, shape: tuple[int, ...], stated: Stated) -> Dims:
        """A tensor's dims as factors: of the axes that cut it, and of the rest."""
        found = []
        for dim, extent in enumerate(shape):
            axes = stated.dims[dim]
            parts = self._mesh.size_of(axes)
            if extent % parts:
                raise ProgramError(
                    f"the program cuts dim {dim} of shape {shape} by mesh axes "
                    f"{', '.join(axes)}: {parts} parts do not divide {extent}",
                    hint="constrain another dim, or leave it whole",
                )
            factors = [self._factor_of[axis] for axis in axes]
            if extent // parts > 1 or not factors:
                factors.append(self._rest(extent // parts, is_open=stated.is_open[dim]))
            found.append(tuple(factors))
        return tuple(found)

    def _rest(self, size: int, *, is_open: bool) -> int:
        factor = len(self._sizes)
        self._sizes.append(size)
        if not is_open:
            self._blocked.add(factor)
        return factor

    def rule(
        self,
        operands: Sequence[Dims],
        results: Sequence[Dims],
        whole: Sequence[str] = (),
    ) -> Rule:
        pinned: list[tuple[str, int | None]] = list(self._factor_of.items())
        pinned += [(axis, None) for axis in whole]
        return Rule(
            sizes=tuple(self._sizes),
            operands=tuple(operands),
            results=tuple(results),
            blocked=frozenset(self._blocked),
            pinned=tuple(pinned),
        )


def _shape(value: AnyValue) -> tuple[int, ...]:
    return tuple(ir.RankedTensorType(value.type).shape)
