"""Functions that their authors partition, traced so that their calls are kept.

Traced for one device, ``custom_partitioning`` leaves the plain function. Traced for
several, it leaves a call that the compiler hands back to its author once it knows how
the operands lie, on the mesh that was traced for.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr
from jax.sharding import NamedSharding, PartitionSpec

PRIMITIVE = "custom_partitioning"


def calls_partitioned(jaxpr: Jaxpr) -> bool:
    """Whether some function in a program is partitioned by its author."""
    pending, seen = [jaxpr], {id(jaxpr)}
    while pending:
        for equation in pending.pop().eqns:
            if equation.primitive.name == PRIMITIVE:
                return True
            for inner in _inside(equation.params.values()):
                if id(inner) not in seen:
                    seen.add(id(inner))
                    pending.append(inner)
    return False


def _inside(params: Iterable[Any]) -> Iterator[Jaxpr]:
    for value in params:
        # A closed one holds its jaxpr; jax 0.12 no longer exports its class.
        inner = getattr(value, "jaxpr", value)
        if isinstance(inner, Jaxpr):
            yield inner
        elif isinstance(value, (tuple, list)):
            yield from _inside(value)


def on_devices(fn: Callable[..., Any], mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """The same function, traced for these devices: its arguments may lie anyhow."""

    def anywhere(value: Any) -> Any:
        if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
            return value
        spec = PartitionSpec(*[PartitionSpec.UNCONSTRAINED] * value.ndim)
        return jax.lax.with_sharding_constraint(value, NamedSharding(mesh, spec))

    @functools.wraps(fn)
    def placed(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = jax.tree.map(anywhere, (args, kwargs))
        return fn(*args, **kwargs)

    return placed
