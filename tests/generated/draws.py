"""Choices of one generated program: the same seed makes the same program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

# XLA of jaxlib 0.12 aborts on some programs that state shardings of odd sizes.
STATED_EXTENTS = (1, 2, 3, 4, 6, 8, 8, 12, 16, 24)
EXTENTS = (1, 2, 3, 4, 5, 6, 7, 8, 8, 11, 12, 15, 16, 24, 27)
MAX_ELEMENTS = 4096
MAX_RANK = 4


@dataclass
class Draw:
    """A source of choices, and the arrays that a program has made so far.

    Attributes:
        rng: Of all choices.
        exact: Arguments: equal to the bit on any number of devices, so that
            discontinuous functions of them are too.
        indices: Integer arrays.
        extras: Arguments of every other kind, by its name.
        mesh: On which steps may state shardings; None if none do.
        made: All float arrays so far.
    """

    rng: np.random.Generator
    exact: list[jax.Array]
    indices: list[jax.Array]
    extras: Mapping[str, jax.Array] = field(default_factory=dict)
    mesh: jax.sharding.Mesh | None = None
    made: list[jax.Array] = field(default_factory=list)

    def array(self, *, least_rank: int = 0) -> jax.Array:
        """A float array; rather a late one than an early one."""
        fitting = [x for x in self.made if x.ndim >= least_rank and x.size]
        if not fitting:
            fitting = [x for x in self.exact if x.ndim >= least_rank]
        late = self.rng.random() ** 0.5
        return fitting[int(late * len(fitting))]

    def argument(self, *, least_rank: int = 0) -> jax.Array:
        """A float argument."""
        return self.pick([x for x in self.exact if x.ndim >= least_rank])

    def index(self) -> jax.Array:
        """An integer vector or scalar."""
        return self.pick(self.indices)

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def below(self, bound: int) -> int:
        return int(self.rng.integers(bound))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def dim(self, x: jax.Array) -> int:
        return self.below(x.ndim)

    def order(self, count: int) -> tuple[int, ...]:
        return tuple(int(i) for i in self.rng.permutation(count))

    def shape(self, extents: tuple[int, ...] = EXTENTS) -> tuple[int, ...]:
        """A shape of rank 2 to 4, now and then less, of such extents."""
        rank = self.pick((0, 1, 2, 2, 2, 3, 3, 4))
        shape = [self.pick(extents) for _ in range(rank)]
        while np.prod(shape) > MAX_ELEMENTS:
            shape[shape.index(max(shape))] //= 2
        return tuple(shape)


Step: TypeAlias = Callable[[Draw], jax.Array]


def fitted(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """An array of this shape made of another one's elements, repeated or cut."""
    size = int(np.prod(shape))
    flat = x.reshape(-1)
    repeats = -(-size // max(flat.size, 1))
    return jnp.tile(flat, repeats)[:size].reshape(shape)
