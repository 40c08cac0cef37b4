"""Steps that state where their values lie: sharding constraints and `shard_map`."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .draws import Draw, Step, fitted


def _spec(draw: Draw, shape: tuple[int, ...], *, may_leave: bool) -> P:
    """Each mesh axis cuts a dim that it divides, or none."""
    mesh = draw.mesh
    assert mesh is not None
    dims: list[list[str]] = [[] for _ in shape]
    left = list(shape)
    for name in draw.pick((mesh.axis_names, mesh.axis_names[::-1])):
        size = mesh.shape[name]
        fitting = [d for d, extent in enumerate(left) if extent and extent % size == 0]
        if fitting and draw.chance(0.7):
            dim = draw.pick(fitting)
            left[dim] //= size
            dims[dim].append(name)
    return P(
        *(
            tuple(names)
            if names
            else (P.UNCONSTRAINED if may_leave and draw.chance(0.3) else None)
            for names in dims
        )
    )


def constrained(draw: Draw) -> jax.Array:
    x = jnp.sin(draw.array())
    sharding = NamedSharding(draw.mesh, _spec(draw, x.shape, may_leave=True))
    return lax.with_sharding_constraint(x, sharding)


def constrained_in_a_loop(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=2)
    sharding = NamedSharding(draw.mesh, _spec(draw, x.shape[1:], may_leave=False))

    def body(carry, row):
        made = lax.with_sharding_constraint(jnp.tanh(carry + row), sharding)
        return made, made * 0.5

    last, rows = lax.scan(body, jnp.zeros(x.shape[1:]), x)
    return rows if draw.chance(0.5) else last


def manual(draw: Draw) -> jax.Array:
    """Each device on its shards, then summed or gathered over some axis."""
    x = draw.array(least_rank=1)
    spec = _spec(draw, x.shape, may_leave=False)
    axes = tuple(name for names in spec for name in names or ())
    kind = draw.below(4)
    others = tuple(name for name in draw.mesh.axis_names if name not in axes)

    def body(shard):
        if kind == 0:
            return jnp.tanh(shard)
        if kind == 1 and axes:
            return shard * 0.5 + lax.pmax(lax.stop_gradient(jnp.max(shard)), axes)
        if kind == 2 and others:
            return lax.psum(jnp.sin(shard) * lax.axis_index(others), others)
        return lax.fori_loop(0, 2, lambda _, c: jnp.sin(c) + 0.1, shard)

    inside = jax.shard_map(
        body, mesh=draw.mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    return inside(x)


def manual_product(draw: Draw) -> jax.Array:
    """A product whose contracted dim is cut by hand and summed by hand."""
    axis = draw.pick(draw.mesh.axis_names)
    size = draw.mesh.shape[axis]
    x = fitted(draw.array(), (4, 2 * size))
    w = fitted(draw.argument(), (2 * size, 8)) / size

    inside = jax.shard_map(
        lambda a, b: lax.psum(a @ b, axis),
        mesh=draw.mesh,
        in_specs=(P(None, axis), P(axis, None)),
        out_specs=P(),
        check_vma=False,
    )
    return inside(x, w)


PLACED: tuple[Step, ...] = (
    constrained, constrained_in_a_loop, manual, manual_product,
)  # fmt: skip
