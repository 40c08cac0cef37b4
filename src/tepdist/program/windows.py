"""Sharding rules of ops that slide a window: convolutions and window reductions.

Along a window, rows of three kinds belong together: of the operand, of the window and
of the result. Window row t of result row o takes operand row i where

    i * base_dilation = o * stride + t * window_dilation - padding

If operand and result (of a weight gradient: operand and window) advance alike, both
may be cut into pieces of as many rows, and a device lacks no more than some rows at
the edges of its neighbours' pieces: the halo. What lies before the first piece and
after the last is padding, as it is for one device.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from tepdist.program.graph import Halo, Rule
from tepdist.program.module import AnyValue
from tepdist.sharding import Mesh, Sharding

CONVOLUTION = "stablehlo.convolution"
REDUCE_WINDOW = "stablehlo.reduce_window"
SELECT_AND_SCATTER = "stablehlo.select_and_scatter"


@dataclass(frozen=True, slots=True)
class Window:
    """One dim along which an op slides its window, and what slides there.

    Attributes:
        rows: Extents of operand, window and result.
        stride: Of the window.
        padding: Before the operand's first row and after its last; may be negative.
        base_dilation: Of the operand.
        window_dilation: Of the window.
        is_gradient: Whether the window is what advances with the operand, as in the
            gradient of a kernel, and not the result.
    """

    rows: tuple[int, int, int]
    stride: int
    padding: tuple[int, int]
    base_dilation: int
    window_dilation: int
    is_gradient: bool

    @property
    def pieces(self) -> int:
        """Into how many pieces it may be cut; 1 if operand and result do not match."""
        operand, window, result = self.rows
        other = window if self.is_gradient else result
        advance = self.window_dilation if self.is_gradient else self.stride
        if 0 in self.rows or operand * self.base_dilation != other * advance:
            return 1
        # A running sum reads all rows before: cutting it saves nothing.
        return math.gcd(operand, other) if 2 * sum(self.halo) < operand else 1

    @property
    def halo(self) -> tuple[int, int]:
        """Rows of the operand that a piece lacks before and after its own."""
        _, window, result = self.rows
        if self.is_gradient:
            advance, reach = self.window_dilation, (result - 1) * self.stride
        else:
            advance, reach = self.stride, (window - 1) * self.window_dilation
        low, _ = self.padding
        last = reach - low - advance
        return (
            max(0, low // self.base_dilation),
            max(0, last // self.base_dilation + 1),
        )

    def cut(self, parts: int) -> "Window":
        """What one device slides over its piece and the halo around it."""
        operand, window, result = self.rows
        if self.is_gradient:
            window //= parts
        else:
            result //= parts
        before, after = self.halo
        operand = operand // parts + before + after
        low = self.padding[0] - before * self.base_dilation
        span = (result - 1) * self.stride + (window - 1) * self.window_dilation + 1
        high = span - low - ((operand - 1) * self.base_dilation + 1)
        return replace(self, rows=(operand, window, result), padding=(low, high))


def windows_of(op: ir.Operation) -> dict[tuple[int, int, int], Window]:
    """What slides along each dim of an op, by the dim of operand, window and result.

    Args:
        op: A convolution or a window reduction of one operand. The window of the
            latter is no operand: its dim is that of the operand.
    """
    if op.name == CONVOLUTION:
        numbers = stablehlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
        dims = [
            *zip(
                numbers.input_spatial_dimensions,
                numbers.kernel_spatial_dimensions,
                numbers.output_spatial_dimensions,
                strict=True,
            )
        ]
        names = ("window_strides", "lhs_dilation", "rhs_dilation")
        extents = _shape(op.operands[1])
    else:
        rank = len(_shape(op.operands[0]))
        dims = [(dim, dim, dim) for dim in range(rank)]
        names = ("window_strides", "base_dilations", "window_dilations")
        extents = _numbers(op, "window_dimensions", rank)
    strides, base, dilations = (_numbers(op, name, len(dims)) for name in names)
    padding = _paddings(op, len(dims))
    operand, result = _shape(op.operands[0]), _shape(op.results[0])
    return {
        each: Window(
            rows=(operand[each[0]], extents[each[1]], result[each[2]]),
            stride=strides[at],
            padding=padding[at],
            base_dilation=base[at],
            window_dilation=dilations[at],
            is_gradient=op.name == CONVOLUTION and extents[each[1]] > result[each[2]],
        )
        for at, each in enumerate(dims)
    }


def window_rule(rule: Rule, op: ir.Operation) -> Rule:
    """The rule of a convolution or window reduction, cut along its windows too.

    Pieces are a factor of operand and result, or of operand and window, whose product
    is then reduced. What a piece has more than one row of is a factor that stays whole.
    XLA gathers the operands of a convolution with feature groups, unless each channel
    is one; and one with batch groups (the gradient of such a kernel) comes out wrong,
    summed over devices of mesh axes that it is not sharded over (jaxlib 0.10.2 and
    0.12.0.1, 2026-11).

    Args:
        rule: As Shardy states it, uneven factors blocked.
        op: That it is of.
    """
    if op.name == CONVOLUTION and _is_grouped(op):
        return replace(rule, blocked=frozenset(range(len(rule.sizes))))
    last = len(rule.operands)
    for dims, window in windows_of(op).items():
        if window.rows[1] == 1:
            continue
        places = {0: dims[0], last: dims[2]}
        if op.name == CONVOLUTION:
            places[1] = dims[1]
        rule = _whole_along(rule, places)
        if window.pieces == 1 or _is_reversed(op):
            continue
        factor = len(rule.sizes)
        cut = {0, 1 if window.is_gradient else last}
        extents = {0: window.rows[0], 1: window.rows[1], last: window.rows[2]}
        rule = _cut_along(rule, places, extents, pieces=window.pieces, cut=cut)
        halo = Halo(places[0], factor, *window.halo)
        rule = replace(rule, halos=(*rule.halos, halo))
        if window.is_gradient:
            rule = replace(rule, reduction=rule.reduction | {factor})
    return rule


def pooling_gradient_rule(rule: Rule, op: ir.Operation) -> Rule:
    """The rule of a select-and-scatter, cut along windows that lie side by side.

    Each device then has all that its windows select from and scatter to.

    Args:
        rule: As Shardy states it, uneven factors blocked.
        op: That it is of.
    """
    rows, source = _shape(op.operands[0]), _shape(op.operands[1])
    rank = len(rows)
    windows = _numbers(op, "window_dimensions", rank)
    strides = _numbers(op, "window_strides", rank)
    padding = _paddings(op, rank)
    for dim in range(rank):
        if windows[dim] == 1:
            continue
        places = {0: dim, 1: dim, len(rule.operands): dim}
        rule = _whole_along(rule, places)
        is_covered = rows[dim] == source[dim] * strides[dim]
        if windows[dim] == strides[dim] and padding[dim] == (0, 0) and is_covered:
            extents = {0: rows[dim], 1: source[dim], len(rule.operands): rows[dim]}
            rule = _cut_along(
                rule, places, extents, pieces=source[dim], cut=set(places)
            )
            rule = replace(rule, per_device=True)
    return rule


def _whole_along(rule: Rule, places: Mapping[int, int]) -> Rule:
    """The rule with a dim of some tensors left whole, operands counted first."""
    tensors = (*rule.operands, *rule.results)
    whole = {factor for at, dim in places.items() for factor in tensors[at][dim]}
    return replace(rule, blocked=rule.blocked | whole)


def _cut_along(
    rule: Rule,
    places: Mapping[int, int],
    extents: Mapping[int, int],
    *,
    pieces: int,
    cut: Collection[int],
) -> Rule:
    """The rule with one more factor, of pieces of a dim of some tensors.

    Args:
        rule: To be changed.
        places: Tensors that the window slides along, operands counted first, and dims.
        extents: Of those dims.
        pieces: Into how many the dims that are cut can be cut.
        cut: Tensors that are; the dim of the others stays whole.
    """
    sizes, blocked = [*rule.sizes, pieces], set(rule.blocked)
    tensors = [list(tensor) for tensor in (*rule.operands, *rule.results)]
    for at, dim in places.items():
        own = [len(rule.sizes)] if at in cut else []
        rest = extents[at] // pieces if at in cut else extents[at]
        if rest > 1:
            own.append(len(sizes))
            blocked.add(len(sizes))
            sizes.append(rest)
        tensors[at][dim] = tuple(own)
    made = tuple(tuple(tensor) for tensor in tensors)
    return replace(
        rule,
        sizes=tuple(sizes),
        operands=made[: len(rule.operands)],
        results=made[len(rule.operands) :],
        blocked=frozenset(blocked),
    )


@dataclass(frozen=True, slots=True)
class Exchange:
    """What devices send each other of the operand along one dim.

    Attributes:
        dim: Of the operand.
        axes: Mesh axes that cut it, major first.
        low: Rows that a device gets of each device before its own, nearest first.
        high: Likewise of those after its own.
        row_elements: Elements of such a row, halos along earlier dims included.
    """

    dim: int
    axes: tuple[str, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    row_elements: int

    @property
    def payloads(self) -> tuple[int, ...]:
        """Elements that a device sends, one permute each."""
        return tuple(rows * self.row_elements for rows in (*self.low, *self.high))


def exchanges(
    rule: Rule, shape: tuple[int, ...], sharding: Sharding, *, mesh: Mesh
) -> list[Exchange]:
    """What devices exchange before they run an op on their pieces, in this order.

    Args:
        rule: Of the op.
        shape: Of its first operand.
        sharding: Of that.
        mesh: Of the sharding.
    """
    local = list(sharding.local_shape(shape, mesh))
    found = []
    for halo in rule.halos:
        axes = sharding.dims[halo.dim]
        if not axes:
            continue
        rows = local[halo.dim]
        others = mesh.size_of(axes) - 1
        found.append(
            Exchange(
                dim=halo.dim,
                axes=axes,
                low=_by_distance(halo.low, rows, others),
                high=_by_distance(halo.high, rows, others),
                row_elements=math.prod(local) // rows,
            )
        )
        local[halo.dim] += halo.low + halo.high
    return found


def _by_distance(halo: int, rows: int, others: int) -> tuple[int, ...]:
    """Rows of a halo that each neighbour has; past the last one there is padding."""
    found: list[int] = []
    while halo > 0 and len(found) < others:
        found.append(min(halo, rows))
        halo -= found[-1]
    return tuple(found)


def _is_grouped(op: ir.Operation) -> bool:
    kernel = _shape(op.operands[1])
    numbers = stablehlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    groups = ir.IntegerAttr(op.attributes["feature_group_count"]).value
    is_grouped = groups > 1 and kernel[numbers.kernel_input_feature_dimension] > 1
    return is_grouped or ir.IntegerAttr(op.attributes["batch_group_count"]).value > 1


def _is_reversed(op: ir.Operation) -> bool:
    """Whether any window runs backwards."""
    if "window_reversal" not in op.attributes:
        return False
    return any(ir.DenseBoolArrayAttr(op.attributes["window_reversal"]))


def _shape(value: AnyValue) -> tuple[int, ...]:
    return tuple(ir.RankedTensorType(value.type).shape)


def _numbers(op: ir.Operation, name: str, count: int) -> tuple[int, ...]:
    """An attribute with a number for each dim; all 1 if it is not there."""
    if name not in op.attributes:
        return (1,) * count
    return tuple(ir.DenseI64ArrayAttr(op.attributes[name]))


def _paddings(op: ir.Operation, count: int) -> list[tuple[int, int]]:
    if "padding" not in op.attributes:
        return [(0, 0)] * count
    table = np.array(ir.DenseIntElementsAttr(op.attributes["padding"]), np.int64)
    return [(int(low), int(high)) for low, high in table.reshape(-1, 2)]
