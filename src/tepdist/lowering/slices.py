"""Keeps slices of slices right, whose starts may be out of bounds.

A device's shard is a slice. XLA makes one of a slice of a slice and forgets that the
starts of both are clamped each, so that other elements are read (jaxlib 0.10.2,
2026-11; not in 0.12.0.1). That happens to a dynamic slice whose result is cut, and to
what is cut and then scattered into in one place, for which XLA slices and updates.
"""

import math
from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from tepdist.program.loops import constant_integer, counter_values
from tepdist.program.module import AnyValue
from tepdist.sharding import Mesh, Sharding

SLICE = "stablehlo.dynamic_slice"
SCATTER = "stablehlo.scatter"


def clamp_starts(operation: ir.Operation) -> None:
    """Clamps the starts of a dynamic slice that may be out of bounds, in place.

    Args:
        operation: Any op; all but dynamic slices are left as they are.
    """
    if operation.name != SLICE:
        return
    extents = ir.RankedTensorType(operation.operands[0].type).shape
    sizes = ir.DenseI64ArrayAttr(operation.attributes["slice_sizes"])
    for dim, (extent, size) in enumerate(zip(extents, sizes, strict=True)):
        start = operation.operands[1 + dim]
        last = extent - size
        if not _is_within(start, last):
            with operation.location, ir.InsertionPoint(operation):
                operation.operands[1 + dim] = _clamped(start, last)


def hide_slices(
    operation: ir.Operation, shardings: Sequence[Sharding], mesh: Mesh
) -> None:
    """Hides from XLA that what a scatter writes into is a slice, in place.

    Args:
        operation: Any op; all but scatters of one index a device are left as they are.
        shardings: Of its operands.
        mesh: Of the shardings.
    """
    if operation.name != SCATTER:
        return
    numbers = stablehlo.ScatterDimensionNumbers(
        operation.attributes["scatter_dimension_numbers"]
    )
    count = len(operation.results)
    indices = ir.RankedTensorType(operation.operands[count].type)
    shape = shardings[count].local_shape(tuple(indices.shape), mesh)
    num_indices = math.prod(
        extent for dim, extent in enumerate(shape) if dim != numbers.index_vector_dim
    )
    placed = [shardings[0].dims[d] for d in numbers.scattered_dims_to_operand_dims]
    if num_indices != 1 or not any(placed):
        return
    with operation.location, ir.InsertionPoint(operation):
        hidden = ir.Operation.create(
            "stablehlo.optimization_barrier",
            results=[result.type for result in operation.results],
            operands=list(operation.operands)[:count],
        )
    for position, result in enumerate(hidden.results):
        operation.operands[position] = result


def _is_within(start: AnyValue, last: int) -> bool:
    """Whether a start is known to be one of 0 to `last`."""
    constant = constant_integer(start)
    if constant is not None:
        return 0 <= constant <= last
    values = counter_values(start)
    if values is None:
        return False
    return not values or (values[0] >= 0 and values[-1] <= last)


def _clamped(start: AnyValue, last: int) -> AnyValue:
    type_ = ir.RankedTensorType(start.type)
    integer = ir.IntegerType(type_.element_type)
    num_bits = integer.width if integer.is_unsigned else integer.width - 1

    def number(value: int) -> AnyValue:
        attribute = ir.IntegerAttr.get(integer, value)
        made: AnyValue = stablehlo.constant(
            ir.DenseElementsAttr.get_splat(type_, attribute)
        )
        return made

    most = min(last, 2**num_bits - 1)
    made: AnyValue = stablehlo.clamp(number(0), start, number(most))
    return made
