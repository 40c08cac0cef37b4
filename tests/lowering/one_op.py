"""Programs of one op each, for every op that the partitioner may treat its own way.

Extents are multiples of 8 wherever a dim may be sharded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclass(frozen=True)
class OneOp:
    """A function around one op, and the shapes of its arguments.

    Attributes:
        fn: Of arrays.
        shapes: Of the arguments.
        dtype: Of all arguments: floats are normal, integers below 8.
        platform: It is lowered for: some ops are custom calls on one of them only.
    """

    fn: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    dtype: Any = np.float32
    platform: str = "cpu"

    def arguments(self) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        dtype = np.dtype(self.dtype)
        if dtype.kind in "iu":
            return [rng.integers(0, 8, shape).astype(dtype) for shape in self.shapes]
        made = [rng.normal(size=shape) for shape in self.shapes]
        if dtype.kind == "c":
            made = [x + 1j * rng.normal(size=x.shape) for x in made]
        return [x.astype(dtype) for x in made]


def _case(fn, *shapes, dtype=np.float32, platform="cpu") -> OneOp:
    return OneOp(fn, shapes, dtype, platform)


def _positive(x):
    return x @ jnp.swapaxes(x, -1, -2) + x.shape[-1] * jnp.eye(x.shape[-1])


def _solve(**options):
    def fn(a, b):
        a = jnp.tril(a) + 8 * jnp.eye(a.shape[-1])
        return lax.linalg.triangular_solve(a, b, lower=True, **options)

    return fn


def _window(op, start, sizes, strides, padding, **dilations):
    return lambda x: lax.reduce_window(
        x, start, op, sizes, strides, padding, **dilations
    )


def _max_pool_slope(x):
    pool = _window(lax.max, -jnp.inf, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jax.grad(lambda y: jnp.sum(pool(y) ** 2))(x)


def _convolve(strides=(1, 1), padding="SAME", groups=1, **dilations):
    return lambda x, kernel: lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **dilations,
    )


def _slopes(fn):
    return jax.grad(lambda x, k: jnp.sum(fn(x, k) ** 2), argnums=(0, 1))


def _index(x):
    """Integers below 8 out of floats."""
    return jnp.abs(x * 3).astype(jnp.int32) % 8


def _sorted_pairs(x, y):
    return lax.sort((x, y), dimension=1, num_keys=1)


def _rng_bits(x):
    state = lax.bitcast_convert_type(x[:4, 0], jnp.uint32)
    return lax.rng_bit_generator(state, (8, 16))


def _gather_window(x, i):
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(1, 2), collapsed_slice_dims=(), start_index_map=(0,)
    )
    return lax.gather(x, _index(i), numbers, slice_sizes=(4, 16))


def _gather_batched(x, i):
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(2,),
        collapsed_slice_dims=(1,),
        start_index_map=(1,),
        operand_batching_dims=(0,),
        start_indices_batching_dims=(0,),
    )
    return lax.gather(x, _index(i)[..., None], numbers, slice_sizes=(1, 1, 24))


def _start(x):
    return _index(x)[0, 0]


SOLVER_SHAPES = ((8, 8, 8), (8, 8, 16))
IMAGE = (8, 8, 16, 8)

OPS: Mapping[str, OneOp] = MappingProxyType(
    {
        # Dense linear algebra.
        "cholesky": _case(lambda x: lax.linalg.cholesky(_positive(x)), (8, 8, 8)),
        "cholesky-2-batch": _case(
            lambda x: lax.linalg.cholesky(_positive(x)), (2, 8, 8, 8)
        ),
        "cholesky-whole": _case(lambda x: lax.linalg.cholesky(_positive(x)), (8, 8)),
        "solve-left": _case(_solve(left_side=True), *SOLVER_SHAPES),
        "solve-right": _case(_solve(), (8, 8, 8), (8, 16, 8)),
        "solve-transposed": _case(
            _solve(left_side=True, transpose_a=True), *SOLVER_SHAPES
        ),
        "solve-whole": _case(_solve(left_side=True), (8, 8), (8, 16)),
        "cholesky-op": _case(
            lambda x: lax.linalg.cholesky(_positive(x)), (8, 8, 8), platform="tpu"
        ),
        "solve-left-op": _case(
            _solve(left_side=True), *SOLVER_SHAPES, platform="tpu"
        ),
        "solve-right-op": _case(
            _solve(transpose_a=True), (8, 8, 8), (8, 16, 8), platform="tpu"
        ),
        "qr": _case(lambda x: jnp.linalg.qr(x), (8, 16, 8)),
        "qr-whole": _case(lambda x: jnp.linalg.qr(x), (16, 8)),
        "eigh": _case(lambda x: jnp.linalg.eigvalsh(_positive(x)), (8, 8, 8)),
        "svd": _case(lambda x: jnp.linalg.svd(x, compute_uv=False), (8, 16, 8)),
        "lu": _case(lambda x: lax.linalg.lu(x), (8, 8, 8)),
        "inverse": _case(lambda x: jnp.linalg.inv(_positive(x)), (8, 8, 8)),
        "determinant": _case(lambda x: jnp.linalg.slogdet(_positive(x)), (8, 8, 8)),
        "solve": _case(
            lambda a, b: jnp.linalg.solve(_positive(a), b), *SOLVER_SHAPES
        ),
        # Fourier transforms.
        "fft": _case(lambda x: jnp.fft.fft(x), (8, 16, 8), dtype=np.complex64),
        "ifft": _case(lambda x: jnp.fft.ifft(x), (8, 16), dtype=np.complex64),
        "fft-2": _case(lambda x: jnp.fft.fft2(x), (8, 16, 8), dtype=np.complex64),
        "fft-whole": _case(lambda x: jnp.fft.fft(x), (16,), dtype=np.complex64),
        "rfft": _case(lambda x: jnp.abs(jnp.fft.rfft(x)), (8, 16, 8)),
        "rfft-2": _case(lambda x: jnp.abs(jnp.fft.rfft2(x)), (8, 16, 8)),
        "irfft": _case(
            lambda x: jnp.fft.irfft(lax.complex(x, x * x), n=14), (8, 16, 8)
        ),
        "rfft-inner": _case(lambda x: jnp.abs(jnp.fft.rfft(x, axis=1)), (8, 16, 8)),
        # Orders.
        "sort": _case(lambda x: jnp.sort(x, 1), (8, 16, 8)),
        "sort-pairs": _case(_sorted_pairs, (8, 16), (8, 16)),
        "argsort": _case(lambda x: jnp.argsort(x, -1), (8, 16)),
        "top-k": _case(lambda x: lax.top_k(x, 4), (8, 16)),
        "top-k-3": _case(lambda x: lax.top_k(x, 4), (8, 8, 16)),
        "argmax": _case(lambda x: jnp.argmax(x, 1), (8, 16, 8)),
        # Random bits.
        "rng-bits": _case(_rng_bits, (8, 8)),
        "random-normal": _case(
            lambda x: x + jax.random.normal(jax.random.key(3), (8, 16)), (8, 16)
        ),
        # Windows.
        "max-pool": _case(
            _window(lax.max, -jnp.inf, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"), IMAGE
        ),
        "sum-window": _case(
            _window(lax.add, 0.0, (1, 3, 1, 1), (1, 1, 1, 1), "SAME"), IMAGE
        ),
        "wide-window": _case(
            _window(lax.add, 0.0, (1, 8, 1, 1), (1, 8, 1, 1), "VALID"), IMAGE
        ),
        "dilated-window": _case(
            _window(
                lax.max,
                -jnp.inf,
                (1, 2, 1, 1),
                (1, 1, 1, 1),
                "SAME",
                window_dilation=(1, 2, 1, 1),
            ),
            IMAGE,
        ),
        "cumsum": _case(lambda x: jnp.cumsum(x, 1), (8, 16, 8)),
        "cumlogsumexp": _case(lambda x: lax.cumlogsumexp(x, 1), (8, 16, 8)),
        "max-pool-slope": _case(_max_pool_slope, IMAGE),
        "convolution": _case(_convolve(), IMAGE, (3, 3, 8, 16)),
        "convolution-strided": _case(_convolve((2, 2)), IMAGE, (3, 3, 8, 16)),
        "convolution-dilated": _case(
            _convolve(rhs_dilation=(2, 1)), IMAGE, (3, 3, 8, 16)
        ),
        "convolution-1x1": _case(_convolve(), IMAGE, (1, 1, 8, 16)),
        "convolution-depthwise": _case(_convolve(groups=8), IMAGE, (3, 3, 1, 8)),
        "convolution-grouped": _case(_convolve(groups=2), IMAGE, (3, 3, 4, 16)),
        "convolution-slopes": _case(_slopes(_convolve()), IMAGE, (3, 3, 8, 16)),
        "convolution-strided-slopes": _case(
            _slopes(_convolve((2, 2))), IMAGE, (3, 3, 8, 16)
        ),
        "convolution-dilated-slopes": _case(
            _slopes(_convolve(rhs_dilation=(2, 1))), (8, 16, 16, 8), (3, 3, 8, 16)
        ),
        "convolution-wide": _case(_convolve(), (8, 16, 16, 8), (7, 5, 8, 16)),
        "convolution-wide-slopes": _case(
            _slopes(_convolve((2, 1))), (8, 16, 16, 8), (7, 5, 8, 16)
        ),
        "convolution-even": _case(_convolve((2, 2)), IMAGE, (4, 2, 8, 16)),
        "convolution-transposed": _case(
            _convolve(padding=((1, 2), (2, 1)), lhs_dilation=(2, 2)),
            IMAGE,
            (3, 3, 8, 16),
        ),
        "convolution-valid": _case(_convolve(padding="VALID"), IMAGE, (3, 3, 8, 16)),
        "convolution-bf16": _case(
            _convolve(), (8, 8, 16, 8), (3, 3, 8, 16), dtype=jnp.bfloat16
        ),
        "max-pool-overlapping": _case(
            _window(lax.max, -jnp.inf, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"), IMAGE
        ),
        "min-pool-integers": _case(
            _window(lax.min, 100, (1, 3, 1, 1), (1, 1, 1, 1), "SAME"),
            IMAGE,
            dtype=np.int32,
        ),
        # Indexing.
        "gather-rows": _case(lambda x, i: x[_index(i)], (8, 16), (16,)),
        "gather-columns": _case(lambda x, i: x[:, _index(i)], (8, 16), (8,)),
        "gather-window": _case(_gather_window, (16, 16), (8, 1)),
        "gather-batched": _case(_gather_batched, (8, 16, 24), (8, 16)),
        "gather-pairs": _case(
            lambda x, i: x[jnp.arange(8), _index(i)], (8, 16), (8,)
        ),
        "take-along": _case(
            lambda x, i: jnp.take_along_axis(x, _index(i), 1), (8, 16), (8, 24)
        ),
        "scatter-add": _case(
            lambda x, i, u: x.at[_index(i)].add(u), (8, 16), (24,), (24, 16)
        ),
        "scatter-set": _case(
            lambda x, i, u: x.at[_index(i[:1])].set(u), (8, 16), (8,), (1, 16)
        ),
        "scatter-max": _case(
            lambda x, i, u: x.at[:, _index(i)].max(u), (8, 16), (24,), (8, 24)
        ),
        "scatter-zero": _case(
            lambda i, u: jnp.zeros((8, 16)).at[_index(i)].add(u), (24,), (24, 16)
        ),
        "scatter-pairs": _case(
            lambda x, i, u: x.at[jnp.arange(8), _index(i)].add(u), (8, 16), (8,), (8,)
        ),
        "dynamic-slice": _case(
            lambda x, i: lax.dynamic_slice_in_dim(x, _start(i), 8, 1), (8, 16), (1, 1)
        ),
        "dynamic-update": _case(
            lambda x, u, i: lax.dynamic_update_slice(x, u, (0, _start(i))),
            (8, 16),
            (8, 8),
            (1, 1),
        ),
        "dynamic-update-all": _case(
            lambda x, u, i: lax.dynamic_update_slice(x, u, (_start(i), 0)),
            (8, 16),
            (8, 16),
            (1, 1),
        ),
        # Shapes.
        "reverse": _case(lambda x: jnp.flip(x, 1), (8, 16, 8)),
        "roll": _case(lambda x: jnp.roll(x, 1, 1), (8, 16, 8)),
        "pad": _case(
            lambda x: lax.pad(x, jnp.float32(0), [(0, 0, 0), (8, 0, 0)]), (8, 16)
        ),
        "pad-inner": _case(
            lambda x: lax.pad(x, jnp.float32(0), [(0, 0, 0), (0, 1, 1)]), (8, 16)
        ),
        "concatenate": _case(
            lambda x, y: jnp.concatenate([x, y], 1), (8, 16), (8, 16)
        ),
        "slice": _case(lambda x: x[:, 4:12], (8, 16)),
        "slice-half": _case(lambda x: x[:, :8], (8, 16)),
        "slice-strided": _case(lambda x: x[:, ::2], (8, 16)),
        "transpose": _case(lambda x: jnp.transpose(x, (2, 0, 1)), (8, 16, 24)),
        "merge": _case(lambda x: x.reshape(128, 8), (8, 16, 8)),
        "split": _case(lambda x: x.reshape(8, 8, 16), (8, 128)),
        "resplit": _case(lambda x: x.reshape(16, 4, 8), (8, 64)),
        "broadcast": _case(lambda x, y: x + y[:, None], (8, 16), (8,)),
        # Products.
        "matmul": _case(lambda x, y: x @ y, (8, 16), (16, 8)),
        "matmul-batched": _case(
            lambda x, y: jnp.einsum("abij,abjk->abik", x, y),
            (8, 8, 8, 16),
            (8, 8, 16, 8),
        ),
        "contract-2": _case(
            lambda x, y: jnp.einsum("ijk,jkl->il", x, y), (8, 8, 16), (8, 16, 8)
        ),
        "outer": _case(lambda x, y: jnp.einsum("ai,aj->aij", x, y), (8, 16), (8, 8)),
        "attention": _case(
            lambda q, k: jnp.einsum("bthd,bshd->bhts", q, k),
            (8, 16, 8, 8),
            (8, 8, 8, 8),
        ),
        # Reductions.
        "sum": _case(lambda x: jnp.sum(x, 1), (8, 16, 8)),
        "max": _case(lambda x: jnp.max(x, (0, 2)), (8, 16, 8)),
        "bits": _case(
            lambda x: lax.reduce(x, np.int32(0), lax.bitwise_or, (1,)),
            (8, 16),
            dtype=np.int32,
        ),
        "all": _case(lambda x: jnp.all(x > -1, 1), (8, 16)),
        "xor": _case(
            lambda x: lax.reduce(x, np.int32(0), lax.bitwise_xor, (1,)),
            (8, 16),
            dtype=np.int32,
        ),
        # Elementwise ones of other types.
        "reduce-precision": _case(lambda x: lax.reduce_precision(x, 8, 7), (8, 16)),
        "bitcast": _case(
            lambda x: lax.bitcast_convert_type(x, jnp.int32), (8, 16)
        ),
        "bitcast-narrow": _case(
            lambda x: lax.bitcast_convert_type(x, jnp.uint8), (8, 16)
        ),
        "bitcast-wide": _case(
            lambda x: lax.bitcast_convert_type(x.reshape(8, 8, 2), jnp.uint32),
            (8, 16),
            dtype=np.uint16,
        ),
        "complex": _case(
            lambda x: jnp.abs(x * jnp.conj(x)), (8, 16), dtype=np.complex64
        ),
        "clamp": _case(lambda x: jnp.clip(x, -1, 1), (8, 16)),
        "population-count": _case(
            lambda x: lax.population_count(x), (8, 16), dtype=np.int32
        ),
        "erf-inv": _case(lambda x: lax.erf_inv(jnp.tanh(x)), (8, 16)),
    }
)  # fmt: skip
