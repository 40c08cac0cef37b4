"""U-Net: a class for every pixel; cross entropy, SGD with momentum, batch norm.

Source: Ronneberger et al., arXiv 1505.04597, figure 1, of 31 million parameters. Here
convolutions are padded, so that the output is as large as the image, and each is
followed by batch norm.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tepdist.errors import OptionsError
from tepdist.zoo.blocks import dense, normal, relu
from tepdist.zoo.conv import (
    CHANNELS,
    LAYOUT,
    init_kernel,
    init_stats,
    init_unit,
    max_pool,
    momentum,
    unit,
)
from tepdist.zoo.keys import DTYPES, key
from tepdist.zoo.losses import cross_entropy
from tepdist.zoo.program import Model, Tree, ZooProgram, abstract, assemble


@dataclass(frozen=True, slots=True)
class UnetKeys:
    """Keys of ``zoo:unet``."""

    levels: int = key(2, "how often the image is halved")
    width: int = key(8, "channels at full size; each level has twice as many")
    classes: int = key(4, "labels of a pixel")
    image: int = key(16, "height and width of an image; divided by 2 ** levels")
    batch: int = key(8, "images per step")
    dtype: str = key("f32", "compute dtype; state is f32", tuple(DTYPES))
    lr: float = key(0.05, "SGD's learning rate")


SIZES: Mapping[str, UnetKeys] = {
    "tiny": UnetKeys(),
    "small": UnetKeys(levels=3, width=16, image=64),
    "31m": UnetKeys(levels=4, width=64, classes=2, image=512, batch=16),
}


def build_unet(name: str, keys: UnetKeys) -> ZooProgram:
    """The train step of this U-Net; its state holds the running averages.

    Raises:
        OptionsError: if the image cannot be halved that often.
    """
    if keys.image % 2**keys.levels:
        raise OptionsError(
            f"image={keys.image} cannot be halved levels={keys.levels} times",
            hint=f"choose a multiple of {2**keys.levels}",
        )
    shape = (keys.batch, keys.image, keys.image)

    def loss(params: Tree, stats: Tree, batch: Tree) -> tuple[jax.Array, Tree]:
        images = batch["images"].astype(DTYPES[keys.dtype])
        scores_bhwc, after = logits(params, stats, images)
        return cross_entropy(scores_bhwc, batch["labels"]), after

    model = Model(
        init_params=lambda key: init_params(key, keys),
        init_stats=init_stats,
        loss=loss,
        make_batch=lambda seed: make_segments(seed, shape, keys.classes),
        batch={
            "images": abstract((*shape, CHANNELS), jnp.float32),
            "labels": abstract(shape, jnp.int32),
        },
        optimizer=momentum(keys.lr, decay=1e-4),
        dtype=keys.dtype,
    )
    return assemble(name, model, dataclasses.asdict(keys))


def logits(params: Tree, stats: Tree, x_bhwc: jax.Array) -> tuple[jax.Array, Tree]:
    """Scores of every pixel's class, [b, h, w, classes], f32; and the next stats."""
    down, up, kept = [], [], []
    for level, each in enumerate(params["down"]):
        if level:
            x_bhwc = max_pool(x_bhwc, window=2, stride=2)
        x_bhwc, after = two_units(x_bhwc, each, stats["down"][level])
        down.append(after)
        kept.append(x_bhwc)
    kept.pop()
    for place, each in enumerate(params["up"]):
        wide_bhwc = enlarge(x_bhwc, each["enlarge"])
        x_bhwc = lax.concatenate((kept.pop(), wide_bhwc), 3)
        x_bhwc, after = two_units(x_bhwc, each["units"], stats["up"][place]["units"])
        up.append({"units": after})
    head = params["head"]
    scores_bhwc = dense(x_bhwc, head["w"], head["b"]).astype(jnp.float32)
    return scores_bhwc, {"down": tuple(down), "up": tuple(up)}


def two_units(x_bhwc: jax.Array, params: Tree, stats: Tree) -> tuple[jax.Array, Tree]:
    """Two units with relu after each, and their next stats."""
    after = []
    for each, unit_stats in zip(params, stats, strict=True):
        x_bhwc, unit_after = unit(x_bhwc, each, unit_stats)
        x_bhwc = relu(x_bhwc)
        after.append(unit_after)
    return x_bhwc, tuple(after)


def enlarge(x_bhwc: jax.Array, params: Tree) -> jax.Array:
    """Twice the height and width, half the channels: a transposed convolution."""
    kernel = params["kernel"].astype(x_bhwc.dtype)
    out: jax.Array = lax.conv_transpose(
        x_bhwc, kernel, (2, 2), "VALID", dimension_numbers=LAYOUT
    )
    shifted: jax.Array = out + params["b"].astype(x_bhwc.dtype)
    return shifted


def init_params(key: jax.Array, keys: UnetKeys) -> Tree:
    """He's normal kernels; a small last layer."""
    down_key, up_key, head_key = jax.random.split(key, 3)
    widths = [keys.width * 2**level for level in range(keys.levels + 1)]
    inputs = [CHANNELS, *widths]
    down = tuple(
        init_two_units(each, (inputs[level], widths[level]))
        for level, each in enumerate(jax.random.split(down_key, keys.levels + 1))
    )
    up = tuple(
        init_up(each, widths[keys.levels - 1 - place])
        for place, each in enumerate(jax.random.split(up_key, keys.levels))
    )
    head = normal(head_key, (keys.width, keys.classes), 1 / math.sqrt(keys.width))
    return {
        "down": down,
        "up": up,
        "head": {"w": head, "b": jnp.zeros((keys.classes,))},
    }


def init_up(key: jax.Array, width: int) -> Tree:
    """Enlarges images of twice as many channels, and takes as many kept ones in."""
    enlarge_key, units_key = jax.random.split(key)
    return {
        "enlarge": {
            "kernel": init_kernel(enlarge_key, (2, 2, 2 * width, width)),
            "b": jnp.zeros((width,)),
        },
        "units": init_two_units(units_key, (2 * width, width)),
    }


def init_two_units(key: jax.Array, channels: tuple[int, int]) -> Tree:
    """Two units of 3 x 3."""
    first_key, second_key = jax.random.split(key)
    inputs, outputs = channels
    return (
        init_unit(first_key, (3, 3, inputs, outputs)),
        init_unit(second_key, (3, 3, outputs, outputs)),
    )


def make_segments(seed: int, shape: tuple[int, int, int], classes: int) -> Tree:
    """Uniform noise; a pixel's label tells how large its first channel is."""
    images = np.random.default_rng(seed).random((*shape, CHANNELS), dtype=np.float32)
    labels = np.minimum(images[..., 0] * classes, classes - 1).astype(np.int32)
    return {"images": images, "labels": labels}
