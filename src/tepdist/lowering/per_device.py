"""Ops that each device runs on its own shards, as under ``jax.shard_map``.

The partitioner gathers the operands of some ops whatever is stated about them. Their
rules leave only batch factors free, so that a shard of the result needs no more than
the shards of the operands: such an op goes into a ``sdy.manual_computation``, which
the partitioner takes as it is. So does a sum of products, which may be contracted
over sharded dims too: its devices add their products up before they reduce the sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy, stablehlo

from tepdist.program.graph import Rule
from tepdist.program.module import AnyValue
from tepdist.program.sums import PRODUCT, TRANSPOSE, is_sum
from tepdist.sharding import Mesh, Sharding

# XLA:CPU chooses layouts for it that it then refuses to run (jaxlib 0.10.2, 0.12.0.1).
TRANSFORM = "stablehlo.fft"
_CHANNEL = "#stablehlo.channel_handle<handle = 1, type = 1>"


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
        manual = sdy.ManualComputationOp(
            [result.type for result in operation.results],
            list(operation.operands),
            sdy.TensorShardingPerValueAttr.get(attributes[:count]),
            sdy.TensorShardingPerValueAttr.get(attributes[count:]),
            sdy.ManualAxesAttr.get(
                [ir.StringAttr.get(name) for name in placed.mesh.names]
            ),
        )
        local = [
            _local_type(operand.type, sharding, placed.mesh)
            for operand, sharding in zip(
                operation.operands, placed.operands, strict=True
            )
        ]
        block = manual.regions[0].blocks.append(
            *local, arg_locs=[operation.location] * len(local)
        )
    with operation.location, ir.InsertionPoint(block):
        made = _sum if is_sum(operation) else _shard
        sdy.ReturnOp(made(operation, list(block.arguments), placed))
    for result, whole in zip(operation.results, manual.results, strict=True):
        result.replace_all_uses_with(whole)
    operation.erase()
    region: ir.Operation = manual.operation
    return region


def _shard(
    operation: ir.Operation, arguments: Sequence[AnyValue], placed: Placed
) -> list[AnyValue]:
    """The op on one device's shards."""
    inner = operation.clone()
    for position, argument in enumerate(arguments):
        inner.operands[position] = argument
    for result, sharding in zip(inner.results, placed.results, strict=True):
        result.set_type(_local_type(result.type, sharding, placed.mesh))
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


def _sum(
    operation: ir.Operation, arguments: Sequence[AnyValue], placed: Placed
) -> list[AnyValue]:
    """A sum of products on one device's shards, reduced over what they contract."""
    body = operation.regions[0].blocks[0]
    local = dict(zip(body.arguments, arguments, strict=True))
    *ops, terminator = body.operations
    for op in ops:
        inner = op.operation.clone()
        for position, operand in enumerate(op.operands):
            inner.operands[position] = local[operand]
        inner.results[0].set_type(_inferred(inner))
        local[op.operation.results[0]] = inner.results[0]
    total = local[terminator.operands[0]]
    (result,) = placed.results
    reduced = placed.reduced()
    for axis in placed.mesh.names:
        dims = [dim for dim, axes in enumerate(result.dims) if axis in axes]
        if dims and any(axis in axes for axes in reduced):
            total = _reduce_scatter(total, axis, dims[0], mesh=placed.mesh)
    for axes in reduced:
        summed = [axis for axis in axes if axis not in result.axes]
        if summed:
            total = _all_reduce(total, summed, placed.mesh)
    return [total]


def _all_reduce(value: AnyValue, axes: Sequence[str], mesh: Mesh) -> AnyValue:
    op = stablehlo.AllReduceOp(
        [value.type],
        [value],
        _groups(axes, mesh),
        channel_handle=ir.Attribute.parse(_CHANNEL),
        use_global_device_ids=True,
    )
    _add_body(op, value)
    made: AnyValue = op.results[0]
    return made


def _reduce_scatter(value: AnyValue, axis: str, dim: int, *, mesh: Mesh) -> AnyValue:
    whole = ir.RankedTensorType(value.type)
    shape = list(whole.shape)
    shape[dim] //= mesh.axis_size(axis)
    op = stablehlo.ReduceScatterOp(
        ir.RankedTensorType.get(shape, whole.element_type),
        value,
        dim,
        _groups([axis], mesh),
        channel_handle=ir.Attribute.parse(_CHANNEL),
        use_global_device_ids=True,
    )
    _add_body(op, value)
    made: AnyValue = op.results[0]
    return made


def _groups(axes: Sequence[str], mesh: Mesh) -> ir.Attribute:
    """Devices that reduce together, in the order of the axes."""
    at = [mesh.names.index(axis) for axis in axes]
    ids = np.arange(mesh.num_devices, dtype=np.int64).reshape(mesh.shape)
    grouped = np.moveaxis(ids, at, range(-len(at), 0))
    rows = np.ascontiguousarray(grouped.reshape(-1, mesh.size_of(axes)))
    groups: ir.Attribute = ir.DenseElementsAttr.get(rows.data)
    return groups


def _add_body(op: ir.OpView, value: AnyValue) -> None:
    scalar = ir.RankedTensorType.get([], ir.RankedTensorType(value.type).element_type)
    location = op.operation.location
    block = op.regions[0].blocks.append(scalar, scalar, arg_locs=[location] * 2)
    with ir.InsertionPoint(block):
        stablehlo.return_([stablehlo.add(*block.arguments)])


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


def _local_type(type_: ir.Type, sharding: Sharding, mesh: Mesh) -> ir.Type:
    """The type of one device's shard."""
    whole = ir.RankedTensorType(type_)
    shape = sharding.local_shape(tuple(whole.shape), mesh)
    return ir.RankedTensorType.get(shape, whole.element_type)
