"""Compute of one op: flops, bytes, and the roofline time of both on one device.

An op counts for the whole tensor; whoever shards it divides flops and bytes by the
shards of its work. An op of unknown kind is bound by the bytes of its operands and
results, never free, and `is_known` tells it so that it can be reported.

Source:
    Roofline: Williams, Waterman and Patterson, CACM 52 (2009).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from tepdist.analysis.nodes import run_counts
from tepdist.cluster.model import Device
from tepdist.cost.elementwise import FloatOrArray, curve_s, greatest
from tepdist.cost.pointwise import POINTWISE
from tepdist.program.graph import (
    COLLECTIVES,
    CONSTRAINT,
    DTYPE_BYTES,
    MANUAL,
    Op,
    Program,
    Value,
)
from tepdist.program.sums import KIND as SUM

Values = Sequence[Value]
Count = Callable[[Op, Values], float]


def dot_general_flops(op: Op, values: Values) -> float:
    """``[.., i, k] @ [.., k, j]``: two flops for each element of the factor product."""
    if op.rule is not None:
        products = float(math.prod(op.rule.sizes))
    else:
        # (b i k)(b k j)(b i j) is the square of the product, times b.
        tensors = (*op.operands[:2], op.results[0])
        products = math.sqrt(math.prod(values[at].num_elements for at in tensors))
    return _flops_per_product(values[op.results[0]].dtype) * products


def sum_flops(op: Op, values: Values) -> float:
    """Those of the products, whose operands come in pairs; their adds are fused."""
    assert op.rule is not None
    sizes, operands = op.rule.sizes, op.rule.operands
    products = 0.0
    for pair in zip(operands[::2], operands[1::2], strict=True):
        factors = {factor for tensor in pair for dim in tensor for factor in dim}
        products += math.prod(sizes[factor] for factor in factors)
    return _flops_per_product(values[op.results[0]].dtype) * products


def convolution_flops(op: Op, values: Values) -> float:
    """Two flops for each result element, window position and input feature.

    The kernel is [window.., input features of a group, output features] in some
    order; its output features are the dim that the result has too. A weight gradient,
    where the kernel is the result's gradient, counts the same way.
    """
    _, kernel = (values[at] for at in op.operands[:2])
    result = values[op.results[0]]
    output_features = 1
    if op.rule is not None:
        kept = {f for dim in op.rule.results[0] for f in dim if op.rule.sizes[f] > 1}
        for extent, dim in zip(kernel.shape, op.rule.operands[1], strict=True):
            output_features *= extent if kept.intersection(dim) else 1
    elif kernel.shape:
        output_features = kernel.shape[-1]
    window = kernel.num_elements / max(1, output_features)
    return _flops_per_product(result.dtype) * result.num_elements * window


def result_flops(op: Op, values: Values) -> float:
    """One for each element of the results."""
    return float(sum(values[at].num_elements for at in op.results))


def operand_flops(op: Op, values: Values) -> float:
    """One for each element of the operands: each is combined once."""
    return float(sum(values[at].num_elements for at in op.operands))


def sort_flops(op: Op, values: Values) -> float:
    """``n log2 n`` comparisons along the longest dim, of each line."""
    operand = values[op.operands[0]]
    return operand.num_elements * math.log2(max((2, *operand.shape)))


def fft_flops(op: Op, values: Values) -> float:
    """``5 n log2 n`` along the last dim, of each line."""
    operand = values[op.operands[0]]
    return 5 * operand.num_elements * math.log2(max((2, *operand.shape[-1:])))


def solve_flops(op: Op, values: Values) -> float:
    """``n^2`` for each column of a triangular solve, ``n^3 / 3`` for a Cholesky."""
    matrix, result = values[op.operands[0]], values[op.results[0]]
    extent = matrix.shape[-1]
    return result.num_elements * extent / (3 if len(op.operands) == 1 else 1)


def no_flops(op: Op, values: Values) -> float:
    """It only moves data."""
    return 0.0


def all_bytes(op: Op, values: Values) -> float:
    """All operands are read and all results written."""
    return float(sum(values[at].bytes_ for at in (*op.operands, *op.results)))


def no_bytes(op: Op, values: Values) -> float:
    """It is done at compile time, renames a buffer, or its region's ops do it all."""
    return 0.0


def result_bytes(op: Op, values: Values) -> float:
    """Results are written, from nothing."""
    return float(sum(values[at].bytes_ for at in op.results))


def taken_bytes(op: Op, values: Values) -> float:
    """What comes out is read and written; operands after the first are indices."""
    indices = sum(values[at].bytes_ for at in op.operands[1:])
    return 2 * result_bytes(op, values) + indices


def updated_bytes(op: Op, values: Values) -> float:
    """The update is read and written in place; further operands are indices."""
    update = values[op.operands[1]].bytes_
    indices = sum(values[at].bytes_ for at in op.operands[2:])
    return 2.0 * update + indices


def scattered_bytes(op: Op, values: Values) -> float:
    """Where updates go is read and written, and the updates and indices are read."""
    size = len(op.operands) // 2
    updates = sum(values[at].bytes_ for at in op.operands[size + 1 :])
    return 3.0 * updates + values[op.operands[size]].bytes_


_MATMULS: Mapping[str, Count] = MappingProxyType(
    {
        "stablehlo.dot_general": dot_general_flops,
        "stablehlo.dot": dot_general_flops,
        "stablehlo.convolution": convolution_flops,
        SUM: sum_flops,
    }
)
# Ops whose cost is told elsewhere: by what a manual computation holds, as collectives.
_NO_WORK = (*COLLECTIVES, MANUAL, CONSTRAINT)
FLOPS: Mapping[str, Count] = MappingProxyType(
    {
        **dict.fromkeys(POINTWISE, result_flops),
        **_MATMULS,
        **dict.fromkeys(_NO_WORK, no_flops),
        "stablehlo.batch_norm_grad": operand_flops,
        "stablehlo.batch_norm_inference": operand_flops,
        "stablehlo.batch_norm_training": operand_flops,
        "stablehlo.bitcast_convert": no_flops,
        "stablehlo.broadcast_in_dim": no_flops,
        "stablehlo.case": no_flops,
        "stablehlo.cholesky": solve_flops,
        "stablehlo.concatenate": no_flops,
        "stablehlo.constant": no_flops,
        "stablehlo.dynamic_slice": no_flops,
        "stablehlo.dynamic_update_slice": no_flops,
        "stablehlo.fft": fft_flops,
        "stablehlo.gather": no_flops,
        "stablehlo.get_tuple_element": no_flops,
        "stablehlo.if": no_flops,
        "stablehlo.iota": result_flops,
        "stablehlo.optimization_barrier": no_flops,
        "stablehlo.pad": no_flops,
        "stablehlo.reduce": operand_flops,
        "stablehlo.reduce_window": operand_flops,
        "stablehlo.reshape": no_flops,
        "stablehlo.reverse": no_flops,
        "stablehlo.rng": result_flops,
        "stablehlo.rng_bit_generator": result_flops,
        "stablehlo.scatter": operand_flops,
        "stablehlo.select_and_scatter": operand_flops,
        "stablehlo.slice": no_flops,
        "stablehlo.sort": sort_flops,
        "stablehlo.transpose": no_flops,
        "stablehlo.triangular_solve": solve_flops,
        "stablehlo.tuple": no_flops,
        "stablehlo.while": no_flops,
        "chlo.top_k": sort_flops,
    }
)
# Ops that do not move all of their operands and results.
_BYTES: Mapping[str, Count] = MappingProxyType(
    {
        **dict.fromkeys(_NO_WORK, no_bytes),
        "stablehlo.bitcast_convert": no_bytes,
        "stablehlo.case": no_bytes,
        "stablehlo.constant": no_bytes,
        "stablehlo.dynamic_slice": taken_bytes,
        "stablehlo.dynamic_update_slice": updated_bytes,
        "stablehlo.gather": taken_bytes,
        "stablehlo.get_tuple_element": no_bytes,
        "stablehlo.if": no_bytes,
        "stablehlo.iota": result_bytes,
        "stablehlo.optimization_barrier": no_bytes,
        "stablehlo.reshape": no_bytes,
        "stablehlo.scatter": scattered_bytes,
        "stablehlo.slice": taken_bytes,
        "stablehlo.tuple": no_bytes,
        "stablehlo.while": no_bytes,
    }
)
# What a device without a rate of its own computes a dtype in.
_COMPUTED_IN: Mapping[str, str] = MappingProxyType(
    {
        **{f"f8{name}": "bf16" for name in ("E4M3FN", "E5M2", "E4M3", "E3M4")},
        **{f"f8{name}": "bf16" for name in ("E4M3FNUZ", "E5M2FNUZ", "E4M3B11FNUZ")},
        "f8E8M0FNU": "bf16",
        "f4E2M1FN": "bf16",
        "ui8": "i8",
        "complex<f64>": "f64",
    }
)


def flops(op: Op, values: Values) -> float:
    """Flops of one run of an op on whole tensors.

    Args:
        op: The op.
        values: The program's.
    """
    return FLOPS.get(op.kind, result_flops)(op, values)


def touched_bytes(op: Op, values: Values) -> float:
    """Device memory traffic of one run of an op, alone and on whole tensors [B].

    In a fusion only what goes in or comes out of it counts.
    """
    return _BYTES.get(op.kind, all_bytes)(op, values)


def is_known(kind: str) -> bool:
    """Whether the cost of this kind of op is more than a guess by its bytes."""
    return kind in FLOPS


def is_matmul(kind: str) -> bool:
    """Whether it runs at the device's matrix-product rate."""
    return kind in _MATMULS


def compute_dtype(op: Op, values: Values) -> str:
    """The dtype whose rate an op runs at: the widest of its operands'."""
    dtypes = [values[at].dtype for at in (*op.operands, *op.results)[:2]]
    return max(dtypes, key=lambda dtype: DTYPE_BYTES.get(dtype, 0))


def matmul_flops_per_s(device: Device, dtype: str) -> float:
    """Rate that large matrix products of this dtype reach [flops/s].

    A dtype without a rate of its own is computed in the next that can hold it, at
    last in f32.
    """
    rates = device.flops_per_s
    known = next(
        name for name in (dtype, _COMPUTED_IN.get(dtype, "f32"), "f32") if name in rates
    )
    return rates[known] * device.matmul_efficiency


def memory_s(bytes_: FloatOrArray, device: Device) -> FloatOrArray:
    """Time of one kernel's memory traffic on one device, but for its launch [s].

    Args:
        bytes_: That it reads and writes [B].
        device: Where it runs.
    """
    if device.memory_times:
        _, least_s = device.memory_times[0]
        time_s: FloatOrArray = curve_s(device.memory_times, bytes_) - least_s
        return time_s
    return bytes_ / device.memory_bytes_per_s


def fill(extents: Iterable[FloatOrArray], device: Device) -> FloatOrArray | float:
    """Share of the rate for large products that one of these extents runs at.

    ``prod(e / (e + half_extent))``: a matrix unit, its registers and tiles are used in
    full only if there is enough along each of the extents.

    Args:
        extents: Rows, columns and contracted elements of one device's product.
        device: Where it runs.
    """
    share: FloatOrArray | float = 1.0
    if device.half_extent:
        for extent in extents:
            share = share * (extent / (extent + device.half_extent))
    return share


def product_s(
    flops: FloatOrArray,
    bytes_: FloatOrArray,
    *,
    extents: Iterable[FloatOrArray],
    dtype: str,
    device: Device,
) -> FloatOrArray:
    """Time of a matrix product or convolution on one device, but for its launch [s].

    The slower of multiplying and of moving its tensors, or their sum where the device
    packs the tensors first.

    Args:
        flops: Of its shard of the work.
        bytes_: That it reads and writes [B].
        extents: Rows, columns and contracted elements of that shard.
        dtype: That it computes in.
        device: Where it runs.
    """
    compute_s = flops / (matmul_flops_per_s(device, dtype) * fill(extents, device))
    if device.packing_bytes_per_s is not None:
        time_s: FloatOrArray = compute_s + bytes_ / device.packing_bytes_per_s
        return time_s
    return greatest(compute_s, memory_s(bytes_, device))


def kernel_s(
    flops: FloatOrArray, bytes_: FloatOrArray, *, dtype: str, device: Device
) -> FloatOrArray:
    """Roofline time of any other kernel on one device, but for its launch [s].

    ``max(flops / rate, memory time)``

    Args:
        flops: Of its shard of the work.
        bytes_: That it reads and writes [B].
        dtype: That it computes in.
        device: Where it runs.
    """
    return greatest(flops / matmul_flops_per_s(device, dtype), memory_s(bytes_, device))


def model_flops(program: Program) -> float:
    """Flops of all matrix products and convolutions of one step.

    Loops multiply; element-wise work is not counted, as is customary for utilization.
    """
    return sum(flops for _, flops in _matmuls(program))


def matmul_peak_flops_per_s(program: Program, device: Device) -> float:
    """Data-sheet peak for the dtype that most of a program's products compute in."""
    flops_by_dtype: dict[str, float] = {}
    for dtype, flops_ in _matmuls(program):
        flops_by_dtype[dtype] = flops_by_dtype.get(dtype, 0.0) + flops_
    main = max(flops_by_dtype, key=flops_by_dtype.__getitem__, default="f32")
    return matmul_flops_per_s(device, main) / device.matmul_efficiency


def _matmuls(program: Program) -> Iterator[tuple[str, float]]:
    """Dtype and flops per step of each matrix product and convolution.

    Those of a manual computation count on each of its shards.
    """
    known: dict[str, tuple[str, float]] = {}  # layers are alike
    for op, count in zip(program.ops, run_counts(program), strict=True):
        if is_matmul(op.kind):
            if op.signature not in known:
                dtype = compute_dtype(op, program.values)
                known[op.signature] = dtype, flops(op, program.values)
            dtype, once = known[op.signature]
            yield dtype, count * once
        if op.body is not None and op.rule is not None:
            pins = [factor for _, factor in op.rule.pinned if factor is not None]
            shards = math.prod(op.rule.sizes[factor] for factor in pins)
            for dtype, flops_ in _matmuls(op.body):
                yield dtype, count * shards * flops_


def _flops_per_product(dtype: str) -> float:
    """A multiplication and an addition, of complex numbers four and four."""
    return 8.0 if dtype.startswith("complex") else 2.0
