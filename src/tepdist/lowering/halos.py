"""Rows that devices exchange along a window before each runs the op on its piece."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from tepdist.lowering.indices import shard_number
from tepdist.lowering.placed import Placed
from tepdist.program.collectives import CHANNEL, neighbour_pairs
from tepdist.program.module import AnyValue
from tepdist.program.sums import splat
from tepdist.program.windows import REDUCE_WINDOW, Exchange, exchanges, windows_of
from tepdist.sharding import Mesh


def has_halos(placed: Placed) -> bool:
    """Whether a mesh axis cuts a window's factor."""
    if not placed.rule.halos:
        return False
    return any(placed.operands[0].dims[halo.dim] for halo in placed.rule.halos)


def with_halos(
    operation: ir.Operation, operands: Sequence[AnyValue], placed: Placed
) -> AnyValue:
    """One device's piece of the first operand, and around it what its window reads.

    Before the first piece and after the last stands what the op pads with.

    Args:
        operation: The op on whole tensors.
        operands: On one device.
        placed: How the op lies.
    """
    value = operands[0]
    type_ = ir.RankedTensorType(value.type)
    is_reduction = operation.name == REDUCE_WINDOW
    scalar = ir.RankedTensorType.get([], type_.element_type)
    fill = operands[1] if is_reduction else splat(scalar, 0)
    whole = tuple(ir.RankedTensorType(operation.operands[0].type).shape)
    for exchange in exchanges(placed.rule, whole, placed.operands[0], mesh=placed.mesh):
        edges = _Edges(exchange, placed.mesh, fill, is_zero=not is_reduction)
        before = [edges.before(value, at) for at in range(len(exchange.low))]
        after = [edges.after(value, at) for at in range(len(exchange.high))]
        value = _joined([*before[::-1], value, *after], exchange.dim)
        (halo,) = (h for h in placed.rule.halos if h.dim == exchange.dim)
        beyond = (halo.low - sum(exchange.low), halo.high - sum(exchange.high))
        value = _padded(value, fill, exchange.dim, beyond=beyond)
    return value


def cut_padding(operation: ir.Operation, placed: Placed) -> ir.Attribute:
    """The padding of the op on one device's piece and its halos."""
    rows = []
    cuts = {
        halo.dim: placed.mesh.size_of(placed.operands[0].dims[halo.dim])
        for halo in placed.rule.halos
    }
    for (dim, _, _), window in windows_of(operation).items():
        parts = cuts.get(dim, 1)
        rows.append((window if parts == 1 else window.cut(parts)).padding)
    made: ir.Attribute = ir.DenseElementsAttr.get(np.array(rows, np.int64).data)
    return made


@dataclass(frozen=True, slots=True)
class _Edges:
    """What a device gets of its neighbours along one dim.

    Attributes:
        exchange: That.
        mesh: Of its axes.
        fill: Where there is no neighbour.
        is_zero: Whether that is zero, which is what comes from no neighbour anyway.
    """

    exchange: Exchange
    mesh: Mesh
    fill: AnyValue
    is_zero: bool

    def before(self, value: AnyValue, at: int) -> AnyValue:
        """The last rows of the device so many places before, less one."""
        extent = ir.RankedTensorType(value.type).shape[self.exchange.dim]
        rows = self.exchange.low[at]
        sent = _rows(value, self.exchange.dim, (extent - rows, extent))
        return self._sent(sent, at + 1)

    def after(self, value: AnyValue, at: int) -> AnyValue:
        """The first rows of the device so many places after, less one."""
        sent = _rows(value, self.exchange.dim, (0, self.exchange.high[at]))
        return self._sent(sent, -at - 1)

    def _sent(self, value: AnyValue, distance: int) -> AnyValue:
        axes, mesh = self.exchange.axes, self.mesh
        received: AnyValue = stablehlo.collective_permute(
            value,
            neighbour_pairs(axes, mesh, distance),
            channel_handle=ir.Attribute.parse(CHANNEL),
        )
        if self.is_zero:
            return received
        index = ir.IntegerType.get_signless(32)
        scalar = ir.RankedTensorType.get([], index)
        number = shard_number(axes, mesh, index)
        first, way = (distance, "LT")
        if distance < 0:
            first, way = (mesh.size_of(axes) + distance, "GE")
        is_outside = stablehlo.compare(
            number, splat(scalar, first), stablehlo.ComparisonDirectionAttr.get(way)
        )
        outside = stablehlo.broadcast_in_dim(
            value.type, self.fill, ir.DenseI64ArrayAttr.get([])
        )
        made: AnyValue = stablehlo.select(is_outside, outside, received)
        return made


def _rows(value: AnyValue, dim: int, span: tuple[int, int]) -> AnyValue:
    shape = list(ir.RankedTensorType(value.type).shape)
    starts, ends = [0] * len(shape), list(shape)
    starts[dim], ends[dim] = span
    made: AnyValue = stablehlo.slice(
        value,
        ir.DenseI64ArrayAttr.get(starts),
        ir.DenseI64ArrayAttr.get(ends),
        ir.DenseI64ArrayAttr.get([1] * len(shape)),
    )
    return made


def _joined(pieces: Sequence[AnyValue], dim: int) -> AnyValue:
    if len(pieces) == 1:
        return pieces[0]
    made: AnyValue = stablehlo.concatenate(pieces, dim)
    return made


def _padded(
    value: AnyValue, fill: AnyValue, dim: int, *, beyond: tuple[int, int]
) -> AnyValue:
    if not any(beyond):
        return value
    rank = ir.RankedTensorType(value.type).rank
    low, high = ([0] * rank, [0] * rank)
    low[dim], high[dim] = beyond
    made: AnyValue = stablehlo.pad(
        value,
        fill,
        ir.DenseI64ArrayAttr.get(low),
        ir.DenseI64ArrayAttr.get(high),
        ir.DenseI64ArrayAttr.get([0] * rank),
    )
    return made
