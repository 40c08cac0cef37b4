"""Steps over windows and whole matrices: convolutions, pooling, factorisations, FFT."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from .draws import Draw, Step, fitted

IMAGE = ("NHWC", "HWIO", "NHWC")
CHANNELS_FIRST = ("NCHW", "OIHW", "NCHW")


def convolve(draw: Draw) -> jax.Array:
    x = fitted(draw.array(), (draw.pick((2, 4, 8)), 8, 8, draw.pick((2, 4))))
    kernel = fitted(draw.argument(), (3, 3, x.shape[-1], draw.pick((4, 8))))
    made = lax.conv_general_dilated(
        x,
        kernel,
        draw.pick(((1, 1), (2, 2))),
        draw.pick(("SAME", "VALID")),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jnp.tanh(made)


def window(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    dim = draw.dim(x)
    sizes = [1] * x.ndim
    sizes[dim] = min(2, x.shape[dim])
    kind, start = draw.pick(((lax.add, 0.0), (lax.max, -jnp.inf)))
    padding = draw.pick(("SAME", "VALID"))
    return lax.reduce_window(
        x, start, kind, sizes, draw.pick((sizes, [1] * x.ndim)), padding
    )


def solve(draw: Draw) -> jax.Array:
    """Operations that only a custom call covers."""
    x = fitted(draw.array(), (draw.pick((2, 8, 12)), 4, 4))
    positive = x @ jnp.swapaxes(x, 1, 2) + 4 * jnp.eye(4)
    kind = draw.below(4)
    if kind == 0:
        return jnp.linalg.cholesky(positive)
    if kind == 1:
        return lax.linalg.triangular_solve(
            jnp.tril(positive), x, left_side=True, lower=True
        )
    if kind == 2:
        return jnp.linalg.inv(positive)
    return jnp.linalg.slogdet(positive)[1] / 4


def orthogonal(draw: Draw) -> jax.Array:
    x = fitted(draw.argument(), (draw.pick((2, 8, 12)), 8, 4))
    x = x + jnp.eye(8, 4) * 4
    return jnp.linalg.qr(x)[draw.below(2)]


def fourier(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    dim = draw.dim(x)
    scale = math.sqrt(x.shape[dim])
    if draw.chance(0.5):
        return jnp.real(jnp.fft.fft(x, axis=dim)) / scale
    return jnp.fft.irfft(jnp.fft.rfft(x, axis=dim) * 0.7, x.shape[dim], axis=dim)


def general_convolution(draw: Draw) -> jax.Array:
    """Strided, dilated and grouped convolutions, and their two gradients."""
    groups = draw.pick((1, 1, 2, 4))
    batch, features, made = draw.pick((2, 3, 4, 8)), 4, draw.pick((4, 8))
    numbers = draw.pick((IMAGE, CHANNELS_FIRST))
    image, kernel = (batch, 8, 6, features), (3, 2, features // groups, made)
    if numbers is CHANNELS_FIRST:
        image, kernel = (batch, features, 8, 6), (made, features // groups, 3, 2)
    x = fitted(draw.array(), image)
    w = fitted(draw.argument(), kernel)
    dilation = draw.pick(((1, 1), (1, 1), (2, 1)))
    options = {
        "window_strides": draw.pick(((1, 1), (2, 1), (2, 2))),
        "padding": draw.pick(("SAME", "VALID", [(1, 0), (0, 2)])),
        "rhs_dilation": draw.pick(((1, 1), (1, 1), (2, 2))),
        "dimension_numbers": numbers,
        "feature_group_count": groups,
    }
    if dilation != (1, 1):
        options["lhs_dilation"] = dilation
        options["padding"] = [(1, 0), (0, 2)]
    if draw.chance(0.2) and groups == 1 and batch % 2 == 0:
        options["batch_group_count"] = 2

    def convolve(a, b):
        return jnp.tanh(lax.conv_general_dilated(a, b, **options) * 0.3)

    kind = draw.below(3)
    if kind == 0:
        return convolve(x, w)
    made, back = jax.vjp(convolve, x, w)
    return back(made)[kind - 1]


def line_convolution(draw: Draw) -> jax.Array:
    """Over one dim, each channel on its own, as in a state-space model."""
    x = fitted(draw.array(), (draw.pick((2, 4)), 12, 8))
    w = fitted(draw.argument(), (4, 1, 8))
    return lax.conv_general_dilated(
        x,
        w,
        (1,),
        [(3, 0)],
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=8,
    )


def pooling(draw: Draw) -> jax.Array:
    """Largest and mean of windows, and their gradients."""
    x = fitted(draw.argument(), (draw.pick((2, 3, 8)), 8, 6, draw.pick((2, 4))))
    x = x + jnp.arange(x.size).reshape(x.shape) * 1e-3
    window, strides = (1, 2, 3, 1), draw.pick(((1, 2, 1, 1), (1, 2, 3, 1)))
    padding = draw.pick(("SAME", "VALID"))
    start, kind = draw.pick(((-jnp.inf, lax.max), (0.0, lax.add), (jnp.inf, lax.min)))

    def pool(a):
        return lax.reduce_window(a, start, kind, window, strides, padding)

    if draw.chance(0.5):
        return pool(x)
    return jax.grad(lambda a: jnp.sum(jnp.sin(pool(a))))(x)


def decomposition(draw: Draw) -> jax.Array:
    """Of a stack of matrices; what is unique about it."""
    count = draw.pick((1, 2, 3, 8))
    x = fitted(draw.argument(), (count, 4, 4)) + 3 * jnp.eye(4) * jnp.arange(1.0, 5)
    symmetric = x + jnp.swapaxes(x, 1, 2)
    kind = draw.below(7)
    if kind == 0:
        return jnp.linalg.eigvalsh(symmetric) / 8
    if kind == 1:
        return jnp.linalg.svd(x, compute_uv=False) / 8
    if kind == 2:
        values, vectors = jnp.linalg.eigh(symmetric)
        return jnp.einsum("bij,bj,bkj->bik", vectors, values, vectors) / 8
    if kind == 3:
        return jnp.linalg.det(x) / 256
    if kind == 4:
        return jax.scipy.linalg.expm(x * 0.1)
    if kind == 5:
        return jax.vmap(jax.scipy.linalg.solve)(x, fitted(draw.array(), (count, 4, 2)))
    return jax.grad(lambda a: jnp.sum(jnp.linalg.cholesky(a @ a.mT + jnp.eye(4))))(x)


def fourier_plane(draw: Draw) -> jax.Array:
    x = fitted(draw.array(), (draw.pick((2, 3, 8)), 4, 6))
    kind = draw.below(3)
    if kind == 0:
        return jnp.abs(jnp.fft.fft2(x)) ** 2 / 24
    if kind == 1:
        return jnp.fft.irfftn(
            jnp.fft.rfftn(x, axes=(0, 2)), (x.shape[0], 6), axes=(0, 2)
        )
    spectrum = jnp.fft.rfft(x, axis=1)
    return jnp.fft.irfft(spectrum * jnp.conj(spectrum), 4, axis=1) / 4


WINDOWS: tuple[Step, ...] = (
    convolve, decomposition, fourier, fourier_plane, general_convolution,
    line_convolution, orthogonal, pooling, solve, window,
)  # fmt: skip
