"""Two small models that differ in everything."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

_adam = optax.adam(1e-2)


class Trained(NamedTuple):
    params: Any
    moments: Any


def init_mlp(key: jax.Array) -> Trained:
    first, second = jax.random.split(key)
    params = {
        "w1": jax.random.normal(first, (16, 32)) * 0.1,
        "w2": jax.random.normal(second, (32, 16)) * 0.1,
    }
    return Trained(params, _adam.init(params))


def step_mlp(state: Trained, batch: dict[str, jax.Array]) -> tuple[Trained, jax.Array]:
    loss, gradients = jax.value_and_grad(loss_mlp)(state.params, batch)
    updates, moments = _adam.update(gradients, state.moments, state.params)
    return Trained(optax.apply_updates(state.params, updates), moments), loss


def loss_mlp(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    out = jax.nn.relu(batch["x"] @ params["w1"]) @ params["w2"]
    return jnp.mean((out - batch["y"]) ** 2)


def evaluate_mlp(state: Trained, batch: dict[str, jax.Array]) -> jax.Array:
    return loss_mlp(state.params, batch)


def batch_mlp(seed: int, size: int = 32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(size, 16)).astype(np.float32) for name in ("x", "y")}


def init_linear(key: jax.Array) -> dict[str, jax.Array]:
    """A state with a key of its own in it."""
    return {"w": jnp.zeros((8,)), "key": key, "count": jnp.zeros((), jnp.int32)}


def step_linear(
    state: dict[str, jax.Array], x: jax.Array, y: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    key, use = jax.random.split(state["key"])
    noisy = x + 0.01 * jax.random.normal(use, x.shape)

    def loss_of(w: jax.Array) -> jax.Array:
        return jnp.mean((noisy @ w - y) ** 2)

    loss, gradient = jax.value_and_grad(loss_of)(state["w"])
    new = {"w": state["w"] - 0.1 * gradient, "key": key, "count": state["count"] + 1}
    return new, {"loss": loss, "norm": jnp.sum(gradient**2)}


def batch_linear(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(64, 8)).astype(np.float32)
    return x, x @ np.arange(8, dtype=np.float32)
