"""Random programs: arguments, a few dozen steps, perhaps a gradient, results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from tepdist.sharding import Mesh

from .control import CONTROL
from .draws import EXTENTS, STATED_EXTENTS, Draw, Step, fitted
from .kinds import COARSE, KINDS, extra_arguments
from .ops import ARRAYS, COMMON
from .placed import PLACED
from .searching import SEARCHING
from .windows import WINDOWS

NUM_STEPS = (3, 10)
RARE = (*ARRAYS, *CONTROL, *KINDS, *SEARCHING, *WINDOWS)
STEPS: Mapping[str, tuple[Step, ...]] = MappingProxyType(
    {
        "common": COMMON,
        "any": (*COMMON, *COMMON, *COMMON, *RARE),
        "rare": RARE,
        "control": (*COMMON, *CONTROL),
        "placed": (*COMMON, *CONTROL, *PLACED, *PLACED, *PLACED),
    }
)
TOLERANCE, COARSE_TOLERANCE = 1e-4, 2e-2


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
    tolerance: float = TOLERANCE


def moved(params: Any, slopes: Any) -> Any:
    """A next state that is mostly gradient: small errors in it must not hide."""
    return jax.tree.map(lambda p, slope: slope + 1e-3 * p, params, slopes)


def random_case(seed: int, *, steps: str = "any", mesh: str = "1") -> Case:
    """A program of this seed.

    Args:
        seed: Of everything.
        steps: Kind of its steps, a key of `STEPS`.
        mesh: On which it may state shardings, e.g. ``2x4``.
    """
    rng = np.random.default_rng(seed)
    shapes = Draw(rng, [], [])
    extents = STATED_EXTENTS if steps == "placed" else EXTENTS
    floats = [
        rng.normal(size=(8, 16)).astype(np.float32),
        *(
            rng.normal(size=shapes.shape(extents)).astype(np.float32)
            for _ in range(1 + shapes.below(4))
        ),
        rng.normal(size=(8, 16)).astype(np.float32),
    ]
    integers = [
        rng.integers(0, 16, size=shapes.pick(((), (8,), (4, 2), (24,)))).astype(
            np.int32
        )
        for _ in range(1 + shapes.below(2))
    ]
    chosen = [shapes.pick(STEPS[steps]) for _ in range(int(rng.integers(*NUM_STEPS)))]
    body_seed = int(rng.integers(2**31))
    stated = _jax_mesh(mesh) if steps == "placed" else None

    def body(
        values: list[jax.Array],
        indices: list[jax.Array],
        extras: Mapping[str, jax.Array],
    ) -> Draw:
        rng = np.random.default_rng(body_seed)
        draw = Draw(rng, list(values), list(indices), extras, stated)
        for step in chosen:
            made = step(draw)
            if made.size and made.ndim < 6:
                draw.made.append(made.astype(jnp.float32))
        return draw

    kind = shapes.pick(("results", "results", "gradient", "gradient", "state"))
    return Case(
        f"random-{steps}-{seed}-{kind}",
        FORMS[kind](body),
        (floats, integers, extra_arguments(rng)),
        COARSE_TOLERANCE if COARSE.intersection(chosen) else TOLERANCE,
    )


Body = Callable[..., Draw]


def _results(body: Body) -> Callable[..., Any]:
    """The last few arrays; now and then an argument, a constant, one of them twice."""

    def fn(*args: Any) -> list[jax.Array]:
        draw = body(*args)
        results = draw.made[-1 - draw.below(3) :]
        if draw.chance(0.2):
            results = [*results, draw.argument()]
        if draw.chance(0.1) and results:
            results = [*results, results[0]]
        if draw.chance(0.1):
            results = [*results, jnp.full((8, 2), 0.25)]
        if draw.chance(0.1):
            results = [*results, draw.index()]
        if draw.chance(0.2):
            results = [*results, draw.pick(tuple(draw.extras.values()))]
        return results

    return fn


def _gradient(body: Body) -> Callable[..., Any]:
    """A next state made of the gradient, and a loss."""

    def fn(values: list[jax.Array], *others: Any) -> Any:
        def loss(inner: list[jax.Array]) -> jax.Array:
            draw = body(inner, *others)
            made = draw.made[-1 - draw.below(3) :]
            return sum((jnp.mean(x * x) for x in made), start=jnp.float32(0))

        value, slopes = jax.value_and_grad(loss)(values)
        return moved(values, slopes), value

    return fn


def _state(body: Body) -> Callable[..., Any]:
    """A donated state that is replaced, passed through or swapped."""

    def fn(values: list[jax.Array], *others: Any) -> Any:
        draw = body(values, *others)
        following = [
            fitted(draw.array(), x.shape) if draw.chance(0.5) else x for x in values
        ]
        for index, x in enumerate(values):
            alike = [i for i, y in enumerate(values) if y.shape == x.shape]
            if draw.chance(0.3):
                following[index] = values[draw.pick(alike)]
        if draw.chance(0.2):
            following[0] = jnp.zeros_like(values[0])
        return following, draw.made[-1:]

    return fn


FORMS: Mapping[str, Callable[[Body], Callable[..., Any]]] = MappingProxyType(
    {"results": _results, "gradient": _gradient, "state": _state}
)


def _jax_mesh(mesh: str) -> jax.sharding.Mesh:
    shape = Mesh.parse(mesh)
    return jax.make_mesh(
        shape.shape,
        shape.names,
        axis_types=(AxisType.Auto,) * len(shape.names),
        devices=jax.devices()[: shape.num_devices],
    )
