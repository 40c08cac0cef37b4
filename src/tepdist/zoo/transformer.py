"""Transformer layers alone: hidden states in, hidden states out, Adam.

No embedding and no head, so that a plan shows the layers only: the model on which
automatic sharding is classically judged, norm after each half as in Vaswani et al.,
arXiv 1706.03762.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from tepdist.zoo.blocks import apply_stack, init_stack
from tepdist.zoo.gpt import checked_stack
from tepdist.zoo.keys import DTYPES, key
from tepdist.zoo.losses import make_regression, mean_squared_error
from tepdist.zoo.program import (
    Model,
    Tree,
    ZooProgram,
    abstract,
    assemble,
    without_stats,
)


@dataclass(frozen=True, slots=True)
class TransformerKeys:
    """Keys of ``zoo:transformer``."""

    layers: int = key(2, "transformer layers")
    hidden: int = key(128, "width of the residual stream")
    heads: int = key(8, "attention heads; divides hidden")
    seq: int = key(8, "positions per sequence")
    batch: int = key(8, "sequences per step")
    dtype: str = key("f32", "compute dtype; state is f32", tuple(DTYPES))
    norm: str = key("post", "layer norm after or before each half", ("post", "pre"))
    scan: bool = key(False, "layers as one loop over stacked ones")  # noqa: FBT003
    remat: str = key("none", "what the backward pass recomputes", ("none", "full"))
    lr: float = key(1e-3, "Adam's learning rate")


def build_transformer(name: str, keys: TransformerKeys) -> ZooProgram:
    """The train step of these layers.

    Raises:
        OptionsError: if the heads do not divide the hidden width.
    """
    stack = checked_stack(keys, causal=False, norm=keys.norm)
    shape = (keys.batch, keys.seq, keys.hidden)

    def loss(params: Tree, batch: Tree) -> jax.Array:
        out = apply_stack(batch["x"].astype(stack.dtype), params, stack)
        return mean_squared_error(out, batch["y"])

    model = Model(
        init_params=lambda key: init_stack(key, stack),
        loss=without_stats(loss),
        make_batch=lambda seed: make_regression(seed, shape),
        batch={name: abstract(shape, jnp.float32) for name in ("x", "y")},
        optimizer=optax.adam(keys.lr),
        dtype=keys.dtype,
    )
    return assemble(name, model, dataclasses.asdict(keys))
