"""What a built-in program is: a train step with its shapes, never materialised.

This file runs nothing; `state` and `batch` are abstract.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import optax

Tree: TypeAlias = Any

# Gradients of a mean over many tokens underflow in f16 (smallest normal 6e-5).
F16_LOSS_SCALE = 1024.0


@dataclass(frozen=True, slots=True)
class ZooProgram:
    """A model with its optimizer, as one train step.

    Attributes:
        name: The spec in full words, e.g. ``gpt:tiny:batch=8``.
        train_step: ``(state, batch) -> (state, loss)``.
        init: ``key -> state``; key as from `jax.random.key`.
        make_batch: ``seed -> batch``: made-up data, equal for equal seeds.
        state: Abstract state: ``{"params": ..., "opt": ...}``.
        batch: Abstract batch.
        keys: Every key with the value it took.
    """

    name: str
    train_step: Callable[[Tree, Tree], tuple[Tree, jax.Array]]
    init: Callable[[jax.Array], Tree]
    make_batch: Callable[[int], Tree]
    state: Tree
    batch: Tree
    keys: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Model:
    """What tells one model from another.

    Attributes:
        init_params: ``key -> params``.
        loss: ``(params, batch) -> loss``, a scalar in f32.
        make_batch: ``seed -> batch`` of numpy arrays.
        batch: Abstract batch.
        optimizer: Of optax.
        dtype: Name of the compute dtype; parameters and moments are f32.
    """

    init_params: Callable[[jax.Array], Tree]
    loss: Callable[[Tree, Tree], jax.Array]
    make_batch: Callable[[int], Tree]
    batch: Tree
    optimizer: optax.GradientTransformation
    dtype: str


def abstract(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """An array's shape and dtype without the array."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def assemble(name: str, model: Model, keys: Mapping[str, object]) -> ZooProgram:
    """The program that trains this model."""

    def init(key: jax.Array) -> Tree:
        params = model.init_params(key)
        return {"params": params, "opt": model.optimizer.init(params)}

    def train_step(state: Tree, batch: Tree) -> tuple[Tree, jax.Array]:
        params = state["params"]
        loss, gradients = loss_and_gradients(model, params, batch)
        updates, opt = model.optimizer.update(gradients, state["opt"], params)
        return {"params": optax.apply_updates(params, updates), "opt": opt}, loss

    return ZooProgram(
        name=name,
        train_step=train_step,
        init=init,
        make_batch=model.make_batch,
        state=jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0))),
        batch=model.batch,
        keys=keys,
    )


def loss_and_gradients(
    model: Model, params: Tree, batch: Tree
) -> tuple[jax.Array, Tree]:
    """Loss and its gradient by the parameters, unscaled."""
    if model.dtype != "f16":
        return jax.value_and_grad(model.loss)(params, batch)

    def scaled(params: Tree) -> jax.Array:
        return model.loss(params, batch) * F16_LOSS_SCALE

    loss, gradients = jax.value_and_grad(scaled)(params)
    unscaled = jax.tree.map(lambda leaf: leaf / F16_LOSS_SCALE, gradients)
    return loss / F16_LOSS_SCALE, unscaled
