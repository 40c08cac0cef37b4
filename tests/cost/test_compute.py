"""Flops and bytes of ops, against XLA's own count, and the roofline's laws."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.interpreters import mlir as jax_mlir

from tepdist.cluster.presets import PRESETS, parse_cluster
from tepdist.cost.compute import (
    FLOPS,
    compute_dtype,
    flops,
    is_known,
    kernel_s,
    matmul_flops_per_s,
    memory_s,
    model_flops,
    product_s,
    touched_bytes,
)
from tepdist.cost.fitting import curve
from tepdist.program.graph import DTYPE_BYTES, Op, Program
from tepdist.program.reader import read_program


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def convolve(window_strides=(1, 1), **options):
    def apply(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides,
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            **options,
        )

    return apply


def kernel_gradient(apply):
    def gradient(kernel, x):
        return jax.grad(lambda k: apply(x, k).sum())(kernel)

    return gradient


IMAGES = f32(8, 17, 17, 16)
PRODUCTS = {
    "vectors": (jnp.dot, f32(16), f32(16)),
    "matrices": (jnp.matmul, f32(8, 16), f32(16, 32)),
    "batched": (jnp.matmul, f32(4, 2, 8, 16), f32(4, 2, 16, 32)),
    "several contracted": (
        lambda a, b: jnp.tensordot(a, b, 2),
        f32(3, 4, 5),
        f32(4, 5, 6),
    ),
    "outer": (lambda a, b: lax.dot_general(a, b, (((), ()), ((), ()))), f32(7), f32(9)),
    "convolution": (convolve(), IMAGES, f32(3, 3, 16, 24)),
    "strided": (convolve((2, 2)), IMAGES, f32(3, 3, 16, 24)),
    "grouped": (convolve(feature_group_count=4), IMAGES, f32(3, 3, 4, 24)),
    "depthwise": (convolve(feature_group_count=16), IMAGES, f32(3, 3, 1, 16)),
    "channels first": (
        lambda x, k: lax.conv_general_dilated(x, k, (1, 1), "VALID"),
        f32(8, 16, 17, 17),
        f32(24, 16, 3, 3),
    ),
    "kernel gradient": (kernel_gradient(convolve()), f32(3, 3, 16, 24), IMAGES),
    "grouped kernel gradient": (
        kernel_gradient(convolve(feature_group_count=4)),
        f32(3, 3, 4, 24),
        IMAGES,
    ),
}


def read(function, *arguments: jax.ShapeDtypeStruct) -> Program:
    lowered = jax.jit(function).lower(*arguments)
    program, _ = read_program(lowered.as_text().encode(), name="test")
    return program


def only(program: Program, kind: str) -> Op:
    (op,) = [op for op in program.ops if op.kind == kind]
    return op


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_count_as_xla_counts_them(name):
    function, *arguments = PRODUCTS[name]
    counted = jax.jit(function).lower(*arguments).cost_analysis()["flops"]
    assert model_flops(read(function, *arguments)) == counted


@pytest.mark.parametrize("name", PRODUCTS)
def test_without_a_rule_a_product_counts_no_less(name):
    program = read(*PRODUCTS[name])
    for op in program.ops:
        if op.kind in ("stablehlo.dot_general", "stablehlo.convolution"):
            unruled = dataclasses.replace(op, rule=None)
            assert flops(unruled, program.values) > 0
            if op.kind == "stablehlo.dot_general":
                least = flops(op, program.values)
                assert flops(unruled, program.values) >= least * (1 - 1e-9)


def test_a_complex_product_takes_four_real_ones():
    complexes = [jax.ShapeDtypeStruct((8, 8), jnp.complex64)] * 2
    real = model_flops(read(jnp.matmul, f32(8, 8), f32(8, 8)))
    assert model_flops(read(jnp.matmul, *complexes)) == 4 * real


@settings(deadline=None, max_examples=10)  # each example is lowered by JAX
@given(st.integers(1, 5), st.integers(1, 5))
def test_loops_multiply(outer, inner):
    def nested(x, w):
        def rounds(c, _):
            return lax.fori_loop(0, inner, lambda _, d: d @ w, c), None

        return lax.scan(rounds, x, length=outer)[0]

    once = model_flops(read(jnp.matmul, f32(4, 4), f32(4, 4)))
    assert model_flops(read(nested, f32(4, 4), f32(4, 4))) == outer * inner * once


def test_elementwise_work_is_no_model_flops():
    assert model_flops(read(lambda x: jnp.tanh(x) + x.sum(), f32(8, 8))) == 0


def test_every_listed_kind_is_an_op_of_its_dialect():
    context = jax_mlir.make_ir_context()
    assert [kind for kind in FLOPS if not context.is_registered_operation(kind)] == []


def test_an_unknown_kind_is_bound_by_its_bytes_and_said_to_be_unknown():
    program = read(jnp.tanh, f32(8, 8))
    op = dataclasses.replace(only(program, "stablehlo.tanh"), kind="their.op")
    assert not is_known(op.kind)
    assert flops(op, program.values) == 64
    assert touched_bytes(op, program.values) == 2 * 8 * 8 * 4


@pytest.mark.parametrize(
    ("function", "arguments", "kind", "bytes_"),
    [
        (jnp.tanh, [f32(8, 8)], "tanh", 2 * 256),
        (lambda x: x.sum(0), [f32(8, 8)], "reduce", 256 + 4 + 32),
        (lambda x: x.reshape(64), [f32(8, 8)], "reshape", 0),
        (lambda x: x[:2], [f32(8, 8)], "slice", 2 * 64),
        (
            lambda x, i: lax.dynamic_slice(x, (i, 0), (2, 8)),
            [f32(800, 8), jax.ShapeDtypeStruct((), jnp.int32)],
            "dynamic_slice",
            2 * 64 + 4 + 4,
        ),
        (
            lambda x, u, i: lax.dynamic_update_slice(x, u, (i, 0)),
            [f32(800, 8), f32(2, 8), jax.ShapeDtypeStruct((), jnp.int32)],
            "dynamic_update_slice",
            2 * 64 + 4 + 4,
        ),
        (
            lambda x, i: x.at[i].get(mode="clip"),
            [f32(800, 8), jax.ShapeDtypeStruct((3,), jnp.int32)],
            "gather",
            2 * 3 * 32 + 12,
        ),
        (
            lambda x, i, u: x.at[i].add(u, mode="promise_in_bounds"),
            [f32(800, 8), jax.ShapeDtypeStruct((3,), jnp.int32), f32(3, 8)],
            "scatter",
            3 * 3 * 32 + 12,
        ),
    ],
)
def test_bytes_are_those_that_move(function, arguments, kind, bytes_):
    program = read(function, *arguments)
    assert touched_bytes(only(program, f"stablehlo.{kind}"), program.values) == bytes_


def test_a_product_runs_at_the_rate_of_its_operands():
    narrow = jax.ShapeDtypeStruct((8, 8), jnp.bfloat16)
    mixed = read(
        lambda a, b: lax.dot(a, b, preferred_element_type=jnp.float32), narrow, narrow
    )
    op = only(mixed, "stablehlo.dot_general")
    assert compute_dtype(op, mixed.values) == "bf16"


@pytest.mark.parametrize("kind", PRESETS)
@pytest.mark.parametrize("dtype", DTYPE_BYTES)
def test_every_dtype_has_a_rate_on_every_device(kind, dtype):
    device = parse_cluster(f"1x{kind}").device
    assert matmul_flops_per_s(device, dtype) > 0


@given(
    st.floats(0, 1e18), st.floats(0, 1e12), st.integers(1, 64), st.sampled_from(PRESETS)
)
def test_the_roofline_is_the_slower_of_compute_and_memory(work, bytes_, shards, kind):
    device = parse_cluster(f"1x{kind}").device
    whole = kernel_s(work, bytes_, dtype="bf16", device=device)
    compute = kernel_s(work, 0.0, dtype="bf16", device=device)
    assert whole == max(compute, memory_s(bytes_, device))
    shard = kernel_s(work / shards, bytes_ / shards, dtype="bf16", device=device)
    assert math.isclose(shard, whole / shards, rel_tol=1e-9)


extents = st.lists(st.floats(1, 1e6), min_size=3, max_size=3)
curves = st.dictionaries(
    st.floats(1, 1e9), st.floats(1e-9, 1.0), min_size=1, max_size=5
).map(lambda points: curve(points.items()))
devices = st.builds(
    dataclasses.replace,
    st.sampled_from([parse_cluster(f"1x{kind}").device for kind in PRESETS]),
    half_extent=st.floats(0, 300),
    packing_bytes_per_s=st.none() | st.floats(1e6, 1e13),
    memory_times=st.just(()) | curves,
)


@given(devices, extents, st.floats(0, 1e12), st.integers(0, 2), st.floats(1, 100))
def test_a_larger_product_never_takes_less(device, shape, bytes_, dim, factor):
    def seconds(of):
        flops = 2 * math.prod(of)
        return product_s(flops, bytes_, extents=of, dtype="f32", device=device)

    larger = [e * factor if at == dim else e for at, e in enumerate(shape)]
    assert seconds(shape) <= seconds(larger) * (1 + 1e-9)
    assert seconds(shape) >= 2 * math.prod(shape) / matmul_flops_per_s(device, "f32")


@given(devices, st.floats(0, 1e12), st.floats(0, 1e12))
def test_more_bytes_never_take_less(device, first, second):
    few, many = sorted((first, second))
    assert 0 <= memory_s(few, device) <= memory_s(many, device) * (1 + 1e-9)


@given(devices, st.lists(st.floats(0, 1e12), min_size=1, max_size=4))
def test_an_array_of_sizes_gives_an_array_of_times(device, sizes):
    together = memory_s(np.array(sizes), device)
    np.testing.assert_allclose(together, [memory_s(each, device) for each in sizes])
