"""MLP: dense layers with relu between, mean squared error, Adam."""

import dataclasses
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from tepdist.zoo.blocks import dense, normal, relu
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
class MlpKeys:
    """Keys of ``zoo:mlp``."""

    layers: int = key(6, "dense layers")
    width: int = key(256, "width of every layer, input and output")
    batch: int = key(32, "rows per step")
    dtype: str = key("f32", "compute dtype; state is f32", tuple(DTYPES))
    lr: float = key(1e-3, "Adam's learning rate")


def build_mlp(name: str, keys: MlpKeys) -> ZooProgram:
    """The train step of this MLP."""
    shape = (keys.batch, keys.width)

    def loss(params: Tree, batch: Tree) -> jax.Array:
        predicted = apply_layers(batch["x"].astype(DTYPES[keys.dtype]), params)
        return mean_squared_error(predicted, batch["y"])

    model = Model(
        init_params=lambda key: init_params(key, keys),
        loss=without_stats(loss),
        make_batch=lambda seed: make_regression(seed, shape),
        batch={name: abstract(shape, jnp.float32) for name in ("x", "y")},
        optimizer=optax.adam(keys.lr),
        dtype=keys.dtype,
    )
    return assemble(name, model, dataclasses.asdict(keys))


def apply_layers(x_bi: jax.Array, params: Tree) -> jax.Array:
    """[b, width] to [b, width] in the dtype of the input."""
    for index, layer in enumerate(params):
        if index:
            x_bi = relu(x_bi)
        x_bi = dense(x_bi, layer["w"], layer["b"])
    return x_bi


def init_params(key: jax.Array, keys: MlpKeys) -> Tree:
    """He's normal weights and zero biases, a tuple over layers."""
    width = keys.width
    return tuple(
        {
            "w": normal(layer_key, (width, width), math.sqrt(2 / width)),
            "b": jnp.zeros((width,)),
        }
        for layer_key in jax.random.split(key, keys.layers)
    )
