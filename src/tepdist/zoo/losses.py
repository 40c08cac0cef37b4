"""Losses, and made-up data that they can be lowered on."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tepdist.zoo.program import Tree


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean of logsumexp minus the target's logit [nats per target].

    The target's logit is picked by comparing with an iota: unlike a gather (whose
    backward pass is a scatter) this can be cut along the classes.

    Args:
        logits: [.., classes], f32.
        targets: [..], integers.
    """
    last = targets.ndim
    peak = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    shifted = logits - peak
    log_sums = lax.log(jnp.sum(lax.exp(shifted), axis=-1))
    classes = lax.broadcasted_iota(targets.dtype, shifted.shape, last)
    hit = classes == lax.broadcast_in_dim(targets, shifted.shape, tuple(range(last)))
    picked = jnp.sum(lax.select(hit, shifted, lax.full_like(shifted, 0)), axis=-1)
    return jnp.sum(log_sums - picked) / targets.size


def mean_squared_error(predicted: jax.Array, wanted: jax.Array) -> jax.Array:
    """Mean over all elements, in f32."""
    error = predicted.astype(jnp.float32) - wanted
    return jnp.sum(error * error) / error.size


def make_regression(seed: int, shape: tuple[int, ...]) -> Tree:
    """Normal inputs and the sine of each as the output to learn."""
    inputs = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return {"x": inputs, "y": np.sin(inputs)}
