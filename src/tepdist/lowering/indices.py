"""Indices into a whole tensor as indices into a device's shard of it."""

from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from tepdist.lowering.placed import Placed
from tepdist.program.module import AnyValue
from tepdist.sharding import Mesh

_SIGNED = ("i32", "i64")


def indices_within_shard(
    scatter: ir.Operation, operands: Sequence[AnyValue], placed: Placed
) -> AnyValue:
    """The indices of a scatter for a device that holds a shard of what it updates.

    Those of other shards point outside, where a scatter does nothing.

    Args:
        scatter: Any whose windows have extent 1 along the dims that are cut.
        operands: On one device: what it updates, as `Placed.partial` says, indices
            into the whole, updates.
        placed: How the scatter lies.
    """
    numbers = stablehlo.ScatterDimensionNumbers(
        scatter.attributes["scatter_dimension_numbers"]
    )
    shard, indices, _ = operands
    cuts = placed.partial().dims
    pointed = list(numbers.scattered_dims_to_operand_dims)
    if not any(cuts[dim] for dim in pointed):
        return indices
    indices = _signed(indices)
    type_ = ir.RankedTensorType(indices.type)
    vector = numbers.index_vector_dim
    extents = ir.RankedTensorType(shard.type).shape
    for place, dim in enumerate(pointed):
        if not cuts[dim]:
            continue
        first: AnyValue = stablehlo.multiply(
            shard_number(cuts[dim], placed.mesh, type_.element_type),
            _scalar(extents[dim], type_.element_type),
        )
        if vector < type_.rank:
            first = _at(first, place, len(pointed))
        dims = [vector] if vector < type_.rank else []
        spread = stablehlo.broadcast_in_dim(
            type_, first, ir.DenseI64ArrayAttr.get(dims)
        )
        indices = stablehlo.subtract(indices, spread)
    return indices


def shard_number(axes: Sequence[str], mesh: Mesh, element: ir.Type) -> AnyValue:
    """Which of the shards along some axes, major first, is this device's."""
    scalar = ir.RankedTensorType.get([], element)
    device = stablehlo.convert(scalar, stablehlo.partition_id())
    number = _scalar(0, element)
    for axis in axes:
        size = _scalar(mesh.axis_size(axis), element)
        at = stablehlo.divide(device, _scalar(mesh.stride(axis), element))
        at = stablehlo.remainder(at, size)
        number = stablehlo.add(stablehlo.multiply(number, size), at)
    return number


def _signed(indices: AnyValue) -> AnyValue:
    """The indices in a type in which less than the first is not a large number."""
    type_ = ir.RankedTensorType(indices.type)
    if str(type_.element_type) in _SIGNED:
        return indices
    wide = ir.IntegerType.get_signless(64)
    made: AnyValue = stablehlo.convert(
        ir.RankedTensorType.get(type_.shape, wide), indices
    )
    return made


def _at(value: AnyValue, place: int, extent: int) -> AnyValue:
    """A vector that holds the scalar at one place, and 0 elsewhere."""
    element = ir.RankedTensorType(value.type).element_type
    type_ = ir.RankedTensorType.get([1], element)
    one = stablehlo.reshape(type_, value)
    low, high, inner = (
        ir.DenseI64ArrayAttr.get([padding])
        for padding in (place, extent - 1 - place, 0)
    )
    made: AnyValue = stablehlo.pad(one, _scalar(0, element), low, high, inner)
    return made


def _scalar(value: int, element: ir.Type) -> AnyValue:
    type_ = ir.RankedTensorType.get([], element)
    made: AnyValue = stablehlo.constant(
        ir.DenseElementsAttr.get_splat(type_, ir.IntegerAttr.get(element, value))
    )
    return made
