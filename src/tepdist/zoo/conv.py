"""Parts of a convolutional network; images are NHWC, kernels HWIO.

A *unit* is a convolution without bias and the batch norm after it:
``{"kernel", "norm": {"g", "b"}}``. Its stats ``{"mean", "var"}`` are running averages
of what it normalises by; a train step moves them and does not read them otherwise.
"""

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from tepdist.zoo.blocks import normal
from tepdist.zoo.program import Tree, abstract

BATCH_NORM_EPSILON = 1e-5
# Share of a running average that a step keeps.
# Source: Paszke et al. (PyTorch), `torch.nn.BatchNorm2d`, momentum 0.1.
BATCH_NORM_KEPT = 0.9
LAYOUT = ("NHWC", "HWIO", "NHWC")
CHANNELS = 3
Kernel: TypeAlias = tuple[int, int, int, int]


def conv(x_bhwc: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """Convolution of an odd window, padded by half of it; in the dtype of `x`."""
    padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
    out: jax.Array = lax.conv_general_dilated(
        x_bhwc,
        kernel.astype(x_bhwc.dtype),
        (stride, stride),
        padding,
        dimension_numbers=LAYOUT,
    )
    return out


def unit(
    x_bhwc: jax.Array, params: Tree, stats: Tree, *, stride: int = 1
) -> tuple[jax.Array, Tree]:
    """Convolution and batch norm, and the unit's next stats."""
    return batch_norm(conv(x_bhwc, params["kernel"], stride=stride), params, stats)


def batch_norm(x_bhwc: jax.Array, params: Tree, stats: Tree) -> tuple[jax.Array, Tree]:
    """Normalised over batch and image, in f32; dtype of the input.

    Source: Ioffe and Szegedy, arXiv 1502.03167, algorithm 1. Running variances are of
    the batch, not of the population it is a sample of.
    """
    x = x_bhwc.astype(jnp.float32)
    count = x.size // x.shape[-1]
    mean_c = jnp.sum(x, axis=(0, 1, 2)) / count
    centred = x - mean_c
    var_c = jnp.sum(centred * centred, axis=(0, 1, 2)) / count
    norm = params["norm"]
    scale_c = norm["g"] * lax.rsqrt(var_c + BATCH_NORM_EPSILON)
    out: jax.Array = centred * scale_c + norm["b"]
    kept = BATCH_NORM_KEPT
    after = {
        "mean": kept * stats["mean"] + (1 - kept) * mean_c,
        "var": kept * stats["var"] + (1 - kept) * var_c,
    }
    return out.astype(x_bhwc.dtype), after


def max_pool(x_bhwc: jax.Array, *, window: int, stride: int) -> jax.Array:
    """The largest of each window; an odd one is padded by half of it."""
    pad = (window - 1) // 2
    lowest = np.array(-np.inf, x_bhwc.dtype)
    out: jax.Array = lax.reduce_window(
        x_bhwc,
        lowest,
        lax.max,
        (1, window, window, 1),
        (1, stride, stride, 1),
        ((0, 0), (pad, pad), (pad, pad), (0, 0)),
    )
    return out


def image_mean(x_bhwc: jax.Array) -> jax.Array:
    """Mean over the image, in f32; dtype of the input; [b, c]."""
    height, width = x_bhwc.shape[1:3]
    total_bc = jnp.sum(x_bhwc.astype(jnp.float32), axis=(1, 2))
    mean_bc: jax.Array = total_bc / (height * width)
    return mean_bc.astype(x_bhwc.dtype)


def init_kernel(key: jax.Array, shape: Kernel) -> jax.Array:
    """He's normal numbers for a kernel [h, w, i, o] with relu after it."""
    height, width, _, outputs = shape
    return normal(key, shape, math.sqrt(2 / (height * width * outputs)))


def init_unit(key: jax.Array, shape: Kernel) -> Tree:
    """A unit with this kernel shape."""
    outputs = shape[-1]
    norm = {"g": jnp.ones((outputs,)), "b": jnp.zeros((outputs,))}
    return {"kernel": init_kernel(key, shape), "norm": norm}


def init_stats(params: Tree) -> Tree:
    """The stats of all units in a tree of dicts and tuples, in a tree like it.

    What has no units in it is left out.
    """
    if isinstance(params, tuple):
        return tuple(init_stats(each) for each in params)
    if not isinstance(params, dict):
        return {}
    if "norm" in params:
        gain = params["norm"]["g"]
        return {"mean": jnp.zeros_like(gain), "var": jnp.ones_like(gain)}
    found = {name: init_stats(each) for name, each in params.items()}
    return {name: stats for name, stats in found.items() if stats}


def momentum(lr: float, decay: float) -> optax.GradientTransformation:
    """SGD with momentum 0.9 and weight decay in the gradient."""
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(lr, momentum=0.9))


def image_batch(batch: int, size: int) -> Tree:
    """Abstract images and a label for each."""
    return {
        "images": abstract((batch, size, size, CHANNELS), jnp.float32),
        "labels": abstract((batch,), jnp.int32),
    }


def make_images(seed: int, batch: Tree, classes: int) -> Tree:
    """Normal noise with random labels, for a batch of these shapes."""
    generator = np.random.default_rng(seed)
    images, labels = batch["images"].shape, batch["labels"].shape
    return {
        "images": generator.standard_normal(images, dtype=np.float32),
        "labels": generator.integers(classes, size=labels, dtype=np.int32),
    }
