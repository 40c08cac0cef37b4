"""Ops that each device runs on its own shards, as under ``jax.shard_map``.

The partitioner gathers the operands of some ops whatever is stated about them. Their
rules leave only batch factors free, so that a shard of the result needs no more than
the shards of the operands: such an op goes into a ``sdy.manual_computation``, which
the partitioner takes as it is.
"""

from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy

from tepdist.program.module import AnyValue
from tepdist.sharding import Mesh, Sharding

# XLA:CPU chooses layouts for it that it then refuses to run (jaxlib 0.10.2, 0.12.0.1).
TRANSFORM = "stablehlo.fft"


def run_per_device(
    operation: ir.Operation,
    operands: Sequence[Sharding],
    results: Sequence[Sharding],
    *,
    mesh: Mesh,
    attributes: Sequence[ir.Attribute],
) -> ir.Operation:
    """Puts an op into a region that each device runs on its shards; returns that.

    Args:
        operation: Any op whose results follow from shards of its operands; erased.
        operands: How its operands lie.
        results: How its results lie.
        mesh: Of all these.
        attributes: The shardings again, operands first, as attributes.
    """
    with operation.location, ir.InsertionPoint(operation):
        manual = sdy.ManualComputationOp(
            [result.type for result in operation.results],
            list(operation.operands),
            sdy.TensorShardingPerValueAttr.get(attributes[: len(operands)]),
            sdy.TensorShardingPerValueAttr.get(attributes[len(operands) :]),
            sdy.ManualAxesAttr.get([ir.StringAttr.get(name) for name in mesh.names]),
        )
        local = [
            _local_type(operand.type, sharding, mesh)
            for operand, sharding in zip(operation.operands, operands, strict=True)
        ]
        block = manual.regions[0].blocks.append(
            *local, arg_locs=[operation.location] * len(local)
        )
    with operation.location, ir.InsertionPoint(block):
        inner = operation.clone()
        for position, argument in enumerate(block.arguments):
            inner.operands[position] = argument
        for result, sharding in zip(inner.results, results, strict=True):
            result.set_type(_local_type(result.type, sharding, mesh))
        made: list[AnyValue] = list(inner.results)
        if inner.name == TRANSFORM:
            with ir.InsertionPoint(inner):
                inner.operands[0] = _row_major(inner.operands[0])
            made = [_row_major(made[0])]
        sdy.ReturnOp(made)
    for result, whole in zip(operation.results, manual.results, strict=True):
        result.replace_all_uses_with(whole)
    operation.erase()
    region: ir.Operation = manual.operation
    return region


def _row_major(value: AnyValue) -> AnyValue:
    """The value, its layout no longer the compiler's choice."""
    type_ = ir.RankedTensorType(value.type)
    order = list(reversed(range(type_.rank)))
    layouts = ir.Attribute.parse(f"[dense<{order}> : tensor<{type_.rank}xindex>]")
    pinned = ir.Operation.create(
        "stablehlo.custom_call",
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


def _local_type(type_: ir.Type, sharding: Sharding, mesh: Mesh) -> ir.Type:
    """The type of one device's shard."""
    whole = ir.RankedTensorType(type_)
    shape = [
        extent // mesh.size_of(axes)
        for extent, axes in zip(whole.shape, sharding.dims, strict=True)
    ]
    return ir.RankedTensorType.get(shape, whole.element_type)
