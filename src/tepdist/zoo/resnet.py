"""ResNet and wide ResNet: cross entropy, SGD with momentum, batch norm.

Source: He et al., arXiv 1512.03385, table 1; wide ones: Zagoruyko and Komodakis, arXiv
1605.07146, section 3. The stride of a bottleneck is in its 3 x 3 convolution, as in
Goyal et al., arXiv 1706.02677, section 5.1, where batch and learning rate are from too.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tepdist.zoo.blocks import dense, normal, relu
from tepdist.zoo.conv import (
    CHANNELS,
    Kernel,
    image_batch,
    image_mean,
    init_stats,
    init_unit,
    make_images,
    max_pool,
    momentum,
    unit,
)
from tepdist.zoo.keys import DTYPES, key
from tepdist.zoo.losses import cross_entropy
from tepdist.zoo.program import Model, Tree, ZooProgram, assemble

# Blocks of each stage, and channels out of a block for each inside.
STAGES: Mapping[str, tuple[tuple[int, ...], int]] = {
    "10": ((1, 1, 1, 1), 1),
    "18": ((2, 2, 2, 2), 1),
    "34": ((3, 4, 6, 3), 1),
    "50": ((3, 4, 6, 3), 4),
    "101": ((3, 4, 23, 3), 4),
    "152": ((3, 8, 36, 3), 4),
}


@dataclass(frozen=True, slots=True)
class ResnetKeys:
    """Keys of ``zoo:resnet``."""

    depth: str = key("10", "layers with weights; from 50 on bottlenecks", tuple(STAGES))
    width: int = key(8, "channels of the first stage")
    widen: int = key(1, "times as many channels inside a block (wide ResNet)")
    classes: int = key(10, "labels")
    image: int = key(32, "height and width of an image")
    batch: int = key(8, "images per step")
    dtype: str = key("f32", "compute dtype; state is f32", tuple(DTYPES))
    lr: float = key(0.1, "SGD's learning rate")


def _size(depth: str, *, widen: int = 1) -> ResnetKeys:
    return ResnetKeys(
        depth=depth, width=64, widen=widen, classes=1000, image=224, batch=256
    )


SIZES: Mapping[str, ResnetKeys] = {
    "tiny": ResnetKeys(),
    "small": ResnetKeys(depth="50", width=16, batch=32),
    **{depth: _size(depth) for depth in ("18", "34", "50", "101", "152")},
    "wide50": _size("50", widen=2),
    "wide101": _size("101", widen=2),
}


def build_resnet(name: str, keys: ResnetKeys) -> ZooProgram:
    """The train step of this ResNet; its state holds the running averages."""
    batch = image_batch(keys.batch, keys.image)

    def loss(params: Tree, stats: Tree, batch: Tree) -> tuple[jax.Array, Tree]:
        images = batch["images"].astype(DTYPES[keys.dtype])
        scores_bc, after = logits(params, stats, images)
        return cross_entropy(scores_bc, batch["labels"]), after

    model = Model(
        init_params=lambda key: init_params(key, keys),
        init_stats=init_stats,
        loss=loss,
        make_batch=lambda seed: make_images(seed, batch, keys.classes),
        batch=batch,
        optimizer=momentum(keys.lr, decay=1e-4),
        dtype=keys.dtype,
    )
    return assemble(name, model, dataclasses.asdict(keys))


def logits(params: Tree, stats: Tree, x_bhwc: jax.Array) -> tuple[jax.Array, Tree]:
    """Scores of every class, [b, classes], f32; and the next stats."""
    x_bhwc, stem = unit(x_bhwc, params["stem"], stats["stem"], stride=2)
    x_bhwc = max_pool(relu(x_bhwc), window=3, stride=2)
    stages = []
    for index, stage in enumerate(params["stages"]):
        blocks = []
        for place, each in enumerate(stage):
            stride = 2 if index and not place else 1
            x_bhwc, after = block(
                x_bhwc, each, stats["stages"][index][place], stride=stride
            )
            blocks.append(after)
        stages.append(tuple(blocks))
    head = params["head"]
    scores_bc = dense(image_mean(x_bhwc), head["w"], head["b"])
    return scores_bc.astype(jnp.float32), {"stem": stem, "stages": tuple(stages)}


def block(
    x_bhwc: jax.Array, params: Tree, stats: Tree, *, stride: int
) -> tuple[jax.Array, Tree]:
    """One residual block, and its next stats; the first 3 x 3 unit has the stride."""
    after, skipped, out = {}, x_bhwc, x_bhwc
    if "skip" in params:
        skipped, after["skip"] = unit(
            x_bhwc, params["skip"], stats["skip"], stride=stride
        )
    units = []
    for index, each in enumerate(params["units"]):
        step = stride if index == len(params["units"]) - 2 else 1
        if index:
            out = relu(out)
        out, unit_after = unit(out, each, stats["units"][index], stride=step)
        units.append(unit_after)
    return relu(out + skipped), after | {"units": tuple(units)}


def init_params(key: jax.Array, keys: ResnetKeys) -> Tree:
    """He's normal kernels; a small last layer."""
    counts, growth = STAGES[keys.depth]
    stem_key, head_key, *stage_keys = jax.random.split(key, len(counts) + 2)
    inputs, stages = keys.width, []
    for index, count in enumerate(counts):
        narrow = keys.width * 2**index
        blocks = []
        for place, each in enumerate(jax.random.split(stage_keys[index], count)):
            shapes = unit_shapes(inputs, narrow, (keys.widen, growth))
            blocks.append(init_block(each, shapes, shrinks=bool(index and not place)))
            inputs = narrow * growth
        stages.append(tuple(blocks))
    return {
        "stem": init_unit(stem_key, (7, 7, CHANNELS, keys.width)),
        "stages": tuple(stages),
        "head": {
            "w": normal(head_key, (inputs, keys.classes), 1 / math.sqrt(inputs)),
            "b": jnp.zeros((keys.classes,)),
        },
    }


def unit_shapes(
    inputs: int, narrow: int, factors: tuple[int, int]
) -> tuple[Kernel, ...]:
    """Kernels of a block: a bottleneck's three, else two.

    Args:
        inputs: Channels in.
        narrow: Channels of the stage.
        factors: Times as many channels inside the block, and out of it.
    """
    widen, growth = factors
    inner, outputs = narrow * widen, narrow * growth
    if growth == 1:
        return (3, 3, inputs, inner), (3, 3, inner, outputs)
    return (1, 1, inputs, inner), (3, 3, inner, inner), (1, 1, inner, outputs)


def init_block(key: jax.Array, shapes: tuple[Kernel, ...], *, shrinks: bool) -> Tree:
    """A block of these units; the input is projected where the output differs."""
    inputs, outputs = shapes[0][2], shapes[-1][3]
    skip_key, *keys = jax.random.split(key, len(shapes) + 1)
    units = tuple(
        init_unit(each, shape) for each, shape in zip(keys, shapes, strict=True)
    )
    if inputs == outputs and not shrinks:
        return {"units": units}
    return {"units": units, "skip": init_unit(skip_key, (1, 1, inputs, outputs))}
