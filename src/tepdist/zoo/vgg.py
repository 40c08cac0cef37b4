"""VGG: 3 x 3 convolutions and three dense layers; cross entropy, SGD with momentum.

Source: Simonyan and Zisserman, arXiv 1409.1556, table 1 and section 3.1. There is no
dropout. Default batch and learning rate are theirs.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tepdist.errors import OptionsError
from tepdist.zoo.blocks import dense, normal, relu
from tepdist.zoo.conv import (
    CHANNELS,
    conv,
    image_batch,
    init_kernel,
    make_images,
    max_pool,
    momentum,
)
from tepdist.zoo.keys import DTYPES, key
from tepdist.zoo.losses import cross_entropy
from tepdist.zoo.program import Model, Tree, ZooProgram, assemble, without_stats

# Convolutions of each stage; a stage ends by halving the image.
STAGES: Mapping[str, tuple[int, ...]] = {
    "11": (1, 1, 2, 2, 2),
    "13": (2, 2, 2, 2, 2),
    "16": (2, 2, 3, 3, 3),
    "19": (2, 2, 4, 4, 4),
}
WIDEST = 8  # times the width of the first stage


@dataclass(frozen=True, slots=True)
class VggKeys:
    """Keys of ``zoo:vgg``."""

    depth: str = key("11", "layers with weights", tuple(STAGES))
    width: int = key(8, "channels of the first stage")
    dense: int = key(64, "width of the two dense layers before the last")
    classes: int = key(10, "labels")
    image: int = key(32, "height and width of an image; a multiple of 32")
    batch: int = key(8, "images per step")
    dtype: str = key("f32", "compute dtype; state is f32", tuple(DTYPES))
    lr: float = key(0.01, "SGD's learning rate")


def _size(depth: str) -> VggKeys:
    return VggKeys(
        depth=depth, width=64, dense=4096, classes=1000, image=224, batch=256
    )


SIZES: Mapping[str, VggKeys] = {
    "tiny": VggKeys(),
    "small": VggKeys(depth="19", width=16, dense=256, batch=32),
    **{depth: _size(depth) for depth in STAGES},
}


def build_vgg(name: str, keys: VggKeys) -> ZooProgram:
    """The train step of this VGG.

    Raises:
        OptionsError: if the image cannot be halved five times.
    """
    if keys.image % 32:
        raise OptionsError(
            f"image={keys.image} is not a multiple of 32",
            hint="five stages halve it",
        )
    batch = image_batch(keys.batch, keys.image)

    def loss(params: Tree, batch: Tree) -> jax.Array:
        images = batch["images"].astype(DTYPES[keys.dtype])
        return cross_entropy(logits(params, images), batch["labels"])

    model = Model(
        init_params=lambda key: init_params(key, keys),
        loss=without_stats(loss),
        make_batch=lambda seed: make_images(seed, batch, keys.classes),
        batch=batch,
        optimizer=momentum(keys.lr, decay=5e-4),
        dtype=keys.dtype,
    )
    return assemble(name, model, dataclasses.asdict(keys))


def logits(params: Tree, x_bhwc: jax.Array) -> jax.Array:
    """Scores of every class; [b, h, w, 3] to [b, classes], f32."""
    for stage in params["stages"]:
        for layer in stage:
            out_bhwc = conv(x_bhwc, layer["kernel"])
            x_bhwc = relu(out_bhwc + layer["b"].astype(x_bhwc.dtype))
        x_bhwc = max_pool(x_bhwc, window=2, stride=2)
    first, second, last = params["dense"]
    # The image is contracted as it is, so that no dim of it is folded into another.
    x_bd = relu(dense(x_bhwc, first["w"], first["b"], contract=((1, 2, 3), (0, 1, 2))))
    x_bd = relu(dense(x_bd, second["w"], second["b"]))
    return dense(x_bd, last["w"], last["b"]).astype(jnp.float32)


def init_params(key: jax.Array, keys: VggKeys) -> Tree:
    """He's normal weights and zero biases."""
    *stage_keys, dense_key = jax.random.split(key, len(STAGES[keys.depth]) + 1)
    inputs, stages = CHANNELS, []
    for index, count in enumerate(STAGES[keys.depth]):
        outputs = keys.width * min(2**index, WIDEST)
        stages.append(init_stage(stage_keys[index], count, (inputs, outputs)))
        inputs = outputs
    side = keys.image // 32
    shapes = (
        (side, side, inputs, keys.dense),
        (keys.dense, keys.dense),
        (keys.dense, keys.classes),
    )
    return {
        "stages": tuple(stages),
        "dense": tuple(
            {
                "w": normal(each, shape, math.sqrt(2 / math.prod(shape[:-1]))),
                "b": jnp.zeros((shape[-1],)),
            }
            for each, shape in zip(jax.random.split(dense_key, 3), shapes, strict=True)
        ),
    }


def init_stage(key: jax.Array, count: int, channels: tuple[int, int]) -> Tree:
    """The convolutions of a stage, the first from the stage before."""
    inputs, outputs = channels
    return tuple(
        {
            "kernel": init_kernel(each, (3, 3, outputs if index else inputs, outputs)),
            "b": jnp.zeros((outputs,)),
        }
        for index, each in enumerate(jax.random.split(key, count))
    )
