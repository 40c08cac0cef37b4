"""Ops that each device runs on its own shards to make partial results, then reduced."""

from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from tepdist.lowering.indices import indices_within_shard, shard_number
from tepdist.lowering.placed import Placed, local_type
from tepdist.lowering.reducing import ADD, reduce_partial
from tepdist.program.module import AnyValue
from tepdist.program.signature import single_op
from tepdist.program.sums import (
    CONSTANT,
    PRODUCT,
    SCATTER,
    TRANSPOSE,
    splat,
)

# What combines to nothing new with each part of a scatter's operand but the first;
# the rest (minimum, maximum, ..) may combine with the operand again and again.
_NEUTRAL = {ADD: 0, "stablehlo.multiply": 1}


def partial_sum(
    operation: ir.Operation, arguments: Sequence[AnyValue], placed: Placed
) -> list[AnyValue]:
    """A sum of products on one device's shards, reduced over what they contract."""
    body = operation.regions[0].blocks[0]
    local = dict(zip(body.arguments, arguments, strict=True))
    *ops, terminator = body.operations
    for op in ops:
        whole: AnyValue = op.operation.results[0]
        if op.operation.name == CONSTANT:
            shard = local_type(whole.type, placed.partial(), placed.mesh)
            local[whole] = splat(shard, 0)
            continue
        operands = [local[operand] for operand in op.operands]
        if op.operation.name == SCATTER:
            operands[1] = indices_within_shard(op.operation, operands, placed)
        inner = clone_on(op.operation, operands)
        inner.results[0].set_type(_inferred(inner))
        local[whole] = inner.results[0]
    return [reduce_partial(local[terminator.operands[0]], placed)]


def partial_op(
    operation: ir.Operation, arguments: Sequence[AnyValue], placed: Placed
) -> list[AnyValue]:
    """A product, convolution, reduction or scatter on one device's shards, reduced."""
    combine = single_op(operation) or ADD
    operands = list(arguments)
    if operation.name == SCATTER:
        operands[0] = _first_alone(operands[0], placed, combine)
        operands[1] = indices_within_shard(operation, operands, placed)
    inner = clone_on(operation, operands)
    (result,) = inner.results
    result.set_type(local_type(result.type, placed.partial(), placed.mesh))
    return [reduce_partial(result, placed, combine)]


def clone_on(op: ir.Operation, operands: Sequence[AnyValue]) -> ir.Operation:
    """The op again on other operands, of which it may have more than are given."""
    inner = op.clone()
    for position, operand in enumerate(operands):
        inner.operands[position] = operand
    return inner


def _first_alone(value: AnyValue, placed: Placed, combine: str) -> AnyValue:
    """What is updated, on the first of the devices whose updates are combined.

    On the others it is what changes nothing.
    """
    if combine not in _NEUTRAL:
        return value
    type_ = ir.RankedTensorType(value.type)
    index = ir.IntegerType.get_signless(32)
    axes = [axis for each in placed.reduced() for axis in each]
    number = shard_number(axes, placed.mesh, index)
    zero = splat(ir.RankedTensorType.get([], index), 0)
    is_first = stablehlo.compare(
        number, zero, stablehlo.ComparisonDirectionAttr.get("EQ")
    )
    made: AnyValue = stablehlo.select(is_first, value, splat(type_, _NEUTRAL[combine]))
    return made


def _inferred(op: ir.Operation) -> ir.Type:
    """Result type of an op of a sum, from its operands' types."""
    shapes = [list(ir.RankedTensorType(operand.type).shape) for operand in op.operands]
    shape = shapes[0]
    if op.name == TRANSPOSE:
        order = ir.DenseI64ArrayAttr(op.attributes["permutation"])
        shape = [shape[dim] for dim in order]
    elif op.name == PRODUCT:
        numbers = stablehlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
        batch = list(numbers.lhs_batching_dimensions)
        gone = (
            {*batch, *numbers.lhs_contracting_dimensions},
            {*numbers.rhs_batching_dimensions, *numbers.rhs_contracting_dimensions},
        )
        shape = [shapes[0][dim] for dim in batch]
        for extents, used in zip(shapes, gone, strict=True):
            shape += [extent for dim, extent in enumerate(extents) if dim not in used]
    element = ir.RankedTensorType(op.results[0].type).element_type
    return ir.RankedTensorType.get(shape, element)
