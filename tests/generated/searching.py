"""Steps that order, search, gather and scatter: they read arguments."""

import jax
import jax.numpy as jnp
from jax import lax

from .draws import Draw, Step, fitted


def approximate_top(draw: Draw) -> jax.Array:
    """The order of equal values is nobody's promise, so an index is what it finds."""
    x = fitted(draw.argument(), (draw.pick((2, 3, 8)), 16))
    function = draw.pick((lax.approx_max_k, lax.approx_min_k))
    values, index = function(x, draw.pick((1, 3)), recall_target=1.0)
    return values + jnp.take_along_axis(x, index, axis=-1) / 16


def top(draw: Draw) -> jax.Array:
    """Of floats or integers; the gradient of its values scatters."""
    x = draw.argument(least_rank=1)
    count = max(1, x.shape[-1] // draw.pick((1, 2, 3)))
    kind = draw.below(3)
    if kind == 0:
        index = lax.top_k((x * 8).astype(jnp.int32), count)[1]
        return index.astype(jnp.float32) / x.shape[-1]
    if kind == 1:
        return lax.top_k(x, count)[0]
    return jax.grad(lambda a: jnp.sum(jnp.sin(lax.top_k(a, count)[0])))(x)


def sort_several(draw: Draw) -> jax.Array:
    """Two keys and a passenger."""
    x = draw.argument(least_rank=1)
    dim = draw.dim(x)
    rough = jnp.round(x)
    passenger = fitted(draw.array(), x.shape)
    made = lax.sort((rough, x, passenger), dimension=dim, num_keys=2)
    return draw.pick(made)


def ordered(draw: Draw) -> jax.Array:
    x = draw.argument(least_rank=1)
    kind = draw.below(6)
    if kind == 0:
        line = jnp.sort(jnp.ravel(x))
        return jnp.searchsorted(line, jnp.linspace(-1, 1, 8)).astype(jnp.float32)
    if kind == 1:
        return jnp.median(x, axis=draw.dim(x))
    if kind == 2:
        return jnp.quantile(x, 0.3, axis=draw.dim(x))
    if kind == 3:
        return jnp.bincount(jnp.ravel(draw.index()) % 8, length=8).astype(jnp.float32)
    if kind == 4:
        return jnp.unique(jnp.round(jnp.ravel(x)), size=6, fill_value=0)
    return jnp.histogram(x, bins=4, range=(-2, 2))[0].astype(jnp.float32)


def segments(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    segment = jnp.resize(draw.index(), (x.shape[0],)) % 5
    function = draw.pick(
        (jax.ops.segment_sum, jax.ops.segment_max, jax.ops.segment_min)
    )
    made = function(x, segment, num_segments=5)
    return jnp.where(jnp.isfinite(made), jnp.tanh(made), 0)


def scatter_more(draw: Draw) -> jax.Array:
    """Setting, multiplying, applying; at points of two dims; out of bounds."""
    x = fitted(draw.array(), (8, draw.pick((4, 6, 16)), 3))
    index = jnp.unique(jnp.ravel(draw.index()) % 8, size=4, fill_value=11)
    other = jnp.arange(4) % x.shape[1]
    rows = fitted(draw.array(), (4, *x.shape[1:]))
    kind = draw.below(6)
    if kind == 0:
        return x.at[index].set(rows, mode="drop", unique_indices=True)
    if kind == 1:
        return x.at[index].multiply(rows, mode="drop", unique_indices=True)
    if kind == 2:
        return x.at[index, other].add(rows[:, 0], mode="drop")
    if kind == 3:
        return x.at[:, other].set(0.5)
    if kind == 4:
        return x.at[..., 1].add(rows[0, 0, 0])
    return x.at[index].min(rows, mode="clip")


def gather_more(draw: Draw) -> jax.Array:
    """Rows of rows, points, windows, with fill; the gradients of some."""
    x = fitted(draw.array(), (8, draw.pick((4, 6, 16)), 3))
    index = draw.index()
    kind = draw.below(5)
    if kind == 0:
        return x[index % 8, jnp.zeros_like(index)]
    if kind == 1:
        return x.at[index].get(mode="fill", fill_value=0.25)
    if kind == 2:
        return jax.vmap(lambda row, i: row[i])(x, jnp.resize(index, (8, 2)) % 4)
    if kind == 3:
        return jax.grad(lambda a: jnp.sum(jnp.sin(a[index % 8])))(x)
    starts = jnp.ravel(index)[:1] % 4
    return jax.vmap(lambda s: lax.dynamic_slice(x, (s, s, 0), (3, 2, 3)))(starts)


def cumulative_more(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    dim = draw.dim(x)
    function = draw.pick((lax.cumsum, lax.cummin, lax.cumprod, lax.cumlogsumexp))
    made = function(jnp.tanh(x), axis=dim, reverse=draw.chance(0.5))
    if draw.chance(0.3):
        return jax.grad(lambda a: jnp.sum(jnp.sin(jnp.cumsum(a, dim))))(x)
    return jnp.tanh(made)


def folded(draw: Draw) -> jax.Array:
    """Reductions with a body of their own, or of several operands."""
    x = lax.stop_gradient(draw.argument(least_rank=1))
    dim = draw.dim(x)
    if draw.chance(0.5):
        values, index = lax.reduce(
            (x, lax.broadcasted_iota(jnp.int32, x.shape, dim)),
            (jnp.float32(-jnp.inf), jnp.int32(-1)),
            lambda a, b: (
                jnp.maximum(a[0], b[0]),
                jnp.where(a[0] >= b[0], a[1], b[1]),
            ),
            (dim,),
        )
        return values + index
    return lax.reduce(x, jnp.float32(0), lambda a, b: a + b - a * b * 0, (dim,)) * 0.1


SEARCHING: tuple[Step, ...] = (
    approximate_top, cumulative_more, folded, gather_more, ordered, scatter_more,
    segments, sort_several, top,
)  # fmt: skip
