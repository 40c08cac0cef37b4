"""Ops that each device runs on its own shards, as under ``jax.shard_map``.

The partitioner gathers the operands of some ops whatever is stated about them. Their
rules leave only batch factors free, so that a shard of the result needs no more than
the shards of the operands: such an op goes into a ``sdy.manual_computation``, which
the partitioner takes as it is. So does a sum of products, which may be contracted
over sharded dims too: its devices add their products up before they reduce the sum.
And so does whatever makes partial results that are scattered.

Such a region takes equal parts only. What is cut unevenly goes into it with zeros
after its end, which add nothing to a sum of products, and what comes out is cut off.
"""

from collections.abc import Callable, Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy, stablehlo

from tepdist.lowering.partial import clone_on, partial_op, partial_sum
from tepdist.lowering.placed import Placed, local_type
from tepdist.program.graph import CUSTOM_CALL
from tepdist.program.module import AnyValue
from tepdist.program.sums import is_sum, splat
from tepdist.sharding import Mesh, Sharding

# XLA:CPU chooses layouts for it that it then refuses to run (jaxlib 0.10.2, 0.12.0.1).
TRANSFORM = "stablehlo.fft"


def run_per_device(
    operation: ir.Operation, placed: Placed, attributes: Sequence[ir.Attribute]
) -> ir.Operation:
    """Puts an op into a region that each device runs on its shards; returns that.

    Args:
        operation: Any op whose results follow from shards of its operands; erased.
        placed: How it lies.
        attributes: The shardings again, operands first, as attributes.
    """
    count = len(placed.operands)
    with operation.location, ir.InsertionPoint(operation):
        given = [
            _padded(value, sharding, attribute, mesh=placed.mesh)
            for value, sharding, attribute in zip(
                operation.operands, placed.operands, attributes, strict=False
            )
        ]
        manual = sdy.ManualComputationOp(
            [
                _even_type(result.type, sharding, placed.mesh)
                for result, sharding in zip(
                    operation.results, placed.results, strict=True
                )
            ],
            given,
            sdy.TensorShardingPerValueAttr.get(attributes[:count]),
            sdy.TensorShardingPerValueAttr.get(attributes[count:]),
            sdy.ManualAxesAttr.get(
                [ir.StringAttr.get(name) for name in placed.mesh.names]
            ),
        )
        local = [
            local_type(operand.type, sharding, placed.mesh)
            for operand, sharding in zip(given, placed.operands, strict=True)
        ]
        block = manual.regions[0].blocks.append(
            *local, arg_locs=[operation.location] * len(local)
        )
    with operation.location, ir.InsertionPoint(block):
        made = _maker(operation, placed)
        sdy.ReturnOp(made(operation, list(block.arguments), placed))
    with operation.location, ir.InsertionPoint(operation):
        for result, whole, attribute in zip(
            operation.results, manual.results, attributes[count:], strict=True
        ):
            result.replace_all_uses_with(_cut_off(whole, result.type, attribute))
    operation.erase()
    region: ir.Operation = manual.operation
    return region


def _even_type(type_: ir.Type, sharding: Sharding, mesh: Mesh) -> ir.Type:
    """The type of as many equal parts as a tensor is cut into."""
    whole, part = ir.RankedTensorType(type_), local_type(type_, sharding, mesh)
    shape = [
        extent * mesh.size_of(axes)
        for extent, axes in zip(
            ir.RankedTensorType(part).shape, sharding.dims, strict=True
        )
    ]
    return ir.RankedTensorType.get(shape, whole.element_type)


def _padded(
    value: AnyValue, sharding: Sharding, attribute: ir.Attribute, *, mesh: Mesh
) -> AnyValue:
    """The value with zeros after the end of what is cut unevenly.

    Args:
        value: Any.
        sharding: How it lies.
        attribute: That again.
        mesh: Of the sharding.
    """
    type_ = ir.RankedTensorType(value.type)
    even = _even_type(type_, sharding, mesh)
    if even == type_:
        return value
    added = [
        after - before
        for after, before in zip(
            ir.RankedTensorType(even).shape, type_.shape, strict=True
        )
    ]
    none = ir.DenseI64ArrayAttr.get([0] * type_.rank)
    zero = splat(ir.RankedTensorType.get([], type_.element_type), 0)
    padded = stablehlo.pad(value, zero, none, ir.DenseI64ArrayAttr.get(added), none)
    made: AnyValue = sdy.ShardingConstraintOp(padded, attribute).result
    return made


def _cut_off(value: AnyValue, type_: ir.Type, attribute: ir.Attribute) -> AnyValue:
    """The first elements of a value, as many along each dim as a type has."""
    if value.type == type_:
        return value
    shape = list(ir.RankedTensorType(type_).shape)
    cut = stablehlo.slice(
        value,
        ir.DenseI64ArrayAttr.get([0] * len(shape)),
        ir.DenseI64ArrayAttr.get(shape),
        ir.DenseI64ArrayAttr.get([1] * len(shape)),
    )
    made: AnyValue = sdy.ShardingConstraintOp(cut, attribute).result
    return made


def _maker(
    operation: ir.Operation, placed: Placed
) -> Callable[[ir.Operation, Sequence[AnyValue], Placed], list[AnyValue]]:
    """What puts the op into its region."""
    if is_sum(operation):
        return partial_sum
    return _shard if placed.rule.per_device else partial_op


def _shard(
    operation: ir.Operation, arguments: Sequence[AnyValue], placed: Placed
) -> list[AnyValue]:
    """The op on one device's shards."""
    inner = clone_on(operation, arguments)
    for result, sharding in zip(inner.results, placed.results, strict=True):
        result.set_type(local_type(result.type, sharding, placed.mesh))
    if inner.name != TRANSFORM:
        return list(inner.results)
    with ir.InsertionPoint(inner):
        inner.operands[0] = _row_major(inner.operands[0])
    return [_row_major(inner.results[0])]


def _row_major(value: AnyValue) -> AnyValue:
    """The value, its layout no longer the compiler's choice."""
    type_ = ir.RankedTensorType(value.type)
    order = list(reversed(range(type_.rank)))
    layouts = ir.Attribute.parse(f"[dense<{order}> : tensor<{type_.rank}xindex>]")
    pinned = ir.Operation.create(
        CUSTOM_CALL,
        results=[type_],
        operands=[value],
        attributes={
            "call_target_name": ir.StringAttr.get("LayoutConstraint"),
            "operand_layouts": layouts,
            "result_layouts": layouts,
        },
    )
    result: AnyValue = pinned.results[0]
    return result
