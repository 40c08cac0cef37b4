"""Partial results that devices make, reduced as a plan says.

Stated as collectives in a region that each device runs, a reduce-scatter is compiled
as one on every platform. XLA:CPU makes none of an all-reduce that is sliced, XLA:GPU
none where two dims are sliced or something stands between the two.
"""

from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from tepdist.lowering.placed import Placed
from tepdist.program.collectives import CHANNEL, device_groups
from tepdist.program.module import AnyValue
from tepdist.sharding import Mesh

ADD = "stablehlo.add"


def reduce_partial(value: AnyValue, placed: Placed, combine: str = ADD) -> AnyValue:
    """One device's shard of the result, of what each device has of it.

    Args:
        value: One device's part, as `Placed.partial` says.
        placed: How the op lies.
        combine: The op that makes a result of two parts.
    """
    (result,) = placed.results
    scattered = placed.scattered()
    for axis in scattered:
        (dim,) = (dim for dim, axes in enumerate(result.dims) if axis in axes)
        value = _reduce_scatter(value, axis, dim, placed=placed, combine=combine)
    for axes in placed.reduced():
        rest = [axis for axis in axes if axis not in scattered]
        if rest:
            value = _all_reduce(value, rest, placed.mesh, combine=combine)
    return value


def _all_reduce(
    value: AnyValue, axes: Sequence[str], mesh: Mesh, *, combine: str
) -> AnyValue:
    op = stablehlo.AllReduceOp(
        [value.type],
        [value],
        device_groups(axes, mesh),
        channel_handle=ir.Attribute.parse(CHANNEL),
        use_global_device_ids=True,
    )
    _add_body(op, value, combine)
    made: AnyValue = op.results[0]
    return made


def _reduce_scatter(
    value: AnyValue, axis: str, dim: int, *, placed: Placed, combine: str
) -> AnyValue:
    whole = ir.RankedTensorType(value.type)
    shape = list(whole.shape)
    shape[dim] //= placed.mesh.axis_size(axis)
    op = stablehlo.ReduceScatterOp(
        ir.RankedTensorType.get(shape, whole.element_type),
        value,
        dim,
        device_groups([axis], placed.mesh),
        channel_handle=ir.Attribute.parse(CHANNEL),
        use_global_device_ids=True,
    )
    _add_body(op, value, combine)
    made: AnyValue = op.results[0]
    return made


def _add_body(op: ir.OpView, value: AnyValue, combine: str) -> None:
    scalar = ir.RankedTensorType.get([], ir.RankedTensorType(value.type).element_type)
    location = op.operation.location
    block = op.regions[0].blocks.append(scalar, scalar, arg_locs=[location] * 2)
    with ir.InsertionPoint(block):
        both = ir.Operation.create(
            combine, results=[scalar], operands=list(block.arguments)
        )
        stablehlo.return_(list(both.results))
