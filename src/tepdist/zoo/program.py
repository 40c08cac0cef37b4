"""What a built-in program is: a train step with its shapes, never materialised.

This file runs nothing; `state` and `batch` are abstract.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
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
        state: Abstract state: ``{"params": ..., "opt": ...}``, with ``"stats"`` if the
            model keeps running averages; without an optimizer, ``"gradients"`` for
            ``"opt"``.
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
        loss: ``(params, stats, batch) -> (loss, next stats)``; the loss is a scalar in
            f32, the next stats are like those of `init_stats`.
        make_batch: ``seed -> batch`` of numpy arrays.
        batch: Abstract batch.
        optimizer: Of optax; None: a step adds its gradients to those in the state.
        dtype: Name of the compute dtype; parameters and moments are f32.
        init_stats: ``params -> stats``: what a step changes but no gradient does, such
            as running averages; empty if nothing.
    """

    init_params: Callable[[jax.Array], Tree]
    loss: Callable[[Tree, Tree, Tree], tuple[jax.Array, Tree]]
    make_batch: Callable[[int], Tree]
    batch: Tree
    optimizer: optax.GradientTransformation | None
    dtype: str
    init_stats: Callable[[Tree], Tree] = lambda params: {}


def without_stats(
    loss: Callable[[Tree, Tree], jax.Array],
) -> Callable[[Tree, Tree, Tree], tuple[jax.Array, Tree]]:
    """A loss of parameters and batch alone, as a `Model` takes it."""
    return lambda params, stats, batch: (loss(params, batch), stats)


def abstract(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """An array's shape and dtype without the array."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def assemble(name: str, model: Model, keys: Mapping[str, object]) -> ZooProgram:
    """The program that trains this model."""

    def init(key: jax.Array) -> Tree:
        params = model.init_params(key)
        stats = model.init_stats(params)
        state = {"params": params} | ({"stats": stats} if stats else {})
        if model.optimizer is None:
            return state | {"gradients": jax.tree.map(jnp.zeros_like, params)}
        return state | {"opt": model.optimizer.init(params)}

    def train_step(state: Tree, batch: Tree) -> tuple[Tree, jax.Array]:
        loss, stats, gradients = loss_and_gradients(model, state, batch)
        return next_state(model, state, gradients) | stats, loss

    return ZooProgram(
        name=name,
        train_step=train_step,
        init=init,
        make_batch=model.make_batch,
        state=jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0))),
        batch=model.batch,
        keys=keys,
    )


def next_state(model: Model, state: Tree, gradients: Tree) -> Tree:
    """The state after an update by these gradients, all but its stats."""
    params = state["params"]
    if model.optimizer is None:
        total = jax.tree.map(jnp.add, state["gradients"], gradients)
        return {"params": params, "gradients": total}
    updates, opt = model.optimizer.update(gradients, state["opt"], params)
    return {"params": optax.apply_updates(params, updates), "opt": opt}


def loss_and_gradients(
    model: Model, state: Tree, batch: Tree
) -> tuple[jax.Array, Tree, Tree]:
    """Loss, the state's next stats, and the loss's gradient by the parameters.

    Loss and gradient are unscaled.
    """
    scale = F16_LOSS_SCALE if model.dtype == "f16" else None

    def scaled(params: Tree) -> tuple[jax.Array, Tree]:
        loss, stats = model.loss(params, state.get("stats", {}), batch)
        return (loss if scale is None else loss * scale), stats

    (loss, stats), gradients = jax.value_and_grad(scaled, has_aux=True)(state["params"])
    named = {"stats": stats} if stats else {}
    if scale is None:
        return loss, named, gradients
    unscaled = jax.tree.map(lambda leaf: leaf / scale, gradients)
    return loss / scale, named, unscaled
