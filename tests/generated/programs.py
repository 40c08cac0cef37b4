"""Random programs: arguments, a few dozen steps, perhaps a gradient, results."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .draws import Draw
from .ops import STEPS

NUM_STEPS = (3, 10)


@dataclass(frozen=True)
class Case:
    """A program and what it is run on.

    Attributes:
        name: For people.
        fn: A function of `args`; the first is its state.
        args: Host arrays.
        tolerance: Of the largest magnitude of each float result.
    """

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    tolerance: float = 1e-4


def moved(params: Any, slopes: Any) -> Any:
    """A next state that is mostly gradient: small errors in it must not hide."""
    return jax.tree.map(lambda p, slope: slope + 1e-3 * p, params, slopes)


def random_case(seed: int, *, steps: str = "any") -> Case:
    """A program of this seed.

    Args:
        seed: Of everything.
        steps: Kind of its steps, a key of `STEPS`.
    """
    rng = np.random.default_rng(seed)
    shapes = Draw(rng, [], [])
    floats = [
        rng.normal(size=(8, 16)).astype(np.float32),
        *(
            rng.normal(size=shapes.shape()).astype(np.float32)
            for _ in range(1 + shapes.below(4))
        ),
    ]
    integers = [
        rng.integers(0, 16, size=shapes.pick(((), (8,), (4, 2), (24,)))).astype(
            np.int32
        )
        for _ in range(1 + shapes.below(2))
    ]
    num_steps = int(rng.integers(*NUM_STEPS))
    body_seed = int(rng.integers(2**31))
    is_gradient = bool(rng.random() < 0.4)

    def body(values: list[jax.Array], indices: list[jax.Array]) -> list[jax.Array]:
        draw = Draw(np.random.default_rng(body_seed), list(values), list(indices))
        for _ in range(num_steps):
            made = draw.pick(STEPS[steps])(draw)
            if made.size and made.ndim < 6:
                draw.made.append(made.astype(jnp.float32))
        results = draw.made[-1 - draw.below(3) :]
        return _with_oddities(draw, results)

    def gradient(values: list[jax.Array], indices: list[jax.Array]) -> Any:
        def loss(inner: list[jax.Array]) -> jax.Array:
            made = [x for x in body(inner, indices) if x.dtype == jnp.float32]
            return sum((jnp.mean(x * x) for x in made), start=jnp.float32(0))

        value, slopes = jax.value_and_grad(loss)(values)
        return moved(values, slopes), value

    fn = gradient if is_gradient else body
    return Case(f"random-{steps}-{seed}", fn, (floats, integers))


def _with_oddities(draw: Draw, results: list[jax.Array]) -> list[jax.Array]:
    """Now and then a result that is an argument, a constant or another result."""
    if draw.chance(0.2):
        results = [*results, draw.argument()]
    if draw.chance(0.1):
        results = [*results, results[0]]
    if draw.chance(0.1):
        results = [*results, jnp.full((8, 2), 0.25)]
    if draw.chance(0.1):
        results = [*results, draw.index()]
    return results
