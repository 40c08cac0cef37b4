"""A planned bf16 run is as near to f32 as one device's bf16 run is.

How near that is depends on the order of the sums. One device that is given the same
batches with their rows in another order has up to 2.2 times the distance in a leaf, by
its norm, and 3.3 times by its largest element, since Adam makes a step of any gradient
that is not zero (2026-11, XLA:CPU). So its distance is the largest of three orders.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import tepdist
from tepdist.zoo import build

MODEL = "gpt:layers=2,hidden=64,heads=4,seq=32,batch=32,vocab=256,lr=1e-3"
STEPS = 50
Tree = Any


def train(
    step: Callable[..., Tree], dtype: str, *, order: int = 0
) -> tuple[np.ndarray, Tree]:
    """Losses of each step and the state at the end."""
    built = build(f"{MODEL},dtype={dtype}")
    state = jax.jit(built.init)(jax.random.key(0))
    losses = []
    for number in range(STEPS):
        batch = built.make_batch(number)
        if order:
            rows = np.random.default_rng(order).permutation(32)
            batch = jax.tree.map(lambda leaf, rows=rows: leaf[rows], batch)
        state, loss = step(state, batch)
        losses.append(float(loss))
    return np.array(losses), jax.tree.map(np.asarray, state)


def distances(found: Tree, other: Tree) -> np.ndarray:
    """Norm of the difference in each leaf."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(other), strict=True)
    return np.array([np.linalg.norm(a.astype(np.float64) - b) for a, b in pairs])


def test_bf16_stays_within_twice_one_devices_distance() -> None:
    exact_losses, exact = train(jax.jit(build(f"{MODEL},dtype=f32").train_step), "f32")
    train_step = build(f"{MODEL},dtype=bf16").train_step
    one_device = jax.jit(train_step)
    own = [train(one_device, "bf16", order=order) for order in range(3)]
    planned = tepdist.parallelize(train_step, cluster="cpu:8", mesh="2x4")
    losses, state = train(planned, "bf16")

    own_losses = max(np.abs(each - exact_losses).max() for each, _ in own)
    assert np.abs(losses - exact_losses).max() <= 2 * own_losses
    own_distances = np.max([distances(each, exact) for _, each in own], axis=0)
    assert (distances(state, exact) <= 2 * own_distances).all()
