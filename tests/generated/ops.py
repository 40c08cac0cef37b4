"""Steps of generated programs: each makes one array of what is at hand.

Values stay of order one. Discontinuous steps read arguments only, which are the same
to the bit on any number of devices.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from .draws import Draw, Step, fitted


def unary(draw: Draw) -> jax.Array:
    function = draw.pick(
        (jnp.tanh, jnp.sin, jax.nn.sigmoid, jnp.negative, jax.nn.gelu, jnp.square)
    )
    return jnp.tanh(function(draw.array()))


def binary(draw: Draw) -> jax.Array:
    x, y = draw.array(), draw.array()
    same = [z for z in draw.made if z.shape == x.shape]
    y = draw.pick(same) if same and draw.chance(0.8) else fitted(y, x.shape)
    function = draw.pick((jnp.add, jnp.multiply, jnp.subtract, jnp.maximum))
    return function(x, y) * 0.7


def broadcast_add(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    vector = fitted(draw.array(), (x.shape[-1],))
    return x * 0.5 + vector


def dot(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    dims = draw.order(x.ndim)
    num_contracting = 1 + draw.below(min(2, x.ndim))
    contracting = dims[:num_contracting]
    batch = tuple(d for d in dims[num_contracting:] if draw.chance(0.4))
    own = [draw.pick((2, 4, 8, 12, 16))] * draw.below(3)
    shape = [x.shape[d] for d in (*batch, *contracting)] + own
    order = draw.order(len(shape))
    y = fitted(draw.array(), tuple(shape[i] for i in order))
    place = {old: new for new, old in enumerate(order)}
    y_batch = tuple(place[i] for i in range(len(batch)))
    y_contracting = tuple(place[len(batch) + i] for i in range(num_contracting))
    made = lax.dot_general(x, y, ((contracting, y_contracting), (batch, y_batch)))
    return made / math.sqrt(math.prod(x.shape[d] for d in contracting))


def weighted(draw: Draw) -> jax.Array:
    """A plain layer whose weight is made of an argument."""
    x = draw.array(least_rank=2)
    weight = fitted(draw.argument(), (x.shape[-1], draw.pick((8, 16, 24))))
    return jax.nn.relu(x @ weight / math.sqrt(x.shape[-1]))


def transpose(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=2)
    return jnp.transpose(x, draw.order(x.ndim))


def reshape(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    shape = list(x.shape)
    for _ in range(1 + draw.below(3)):
        place = draw.below(len(shape)) if shape else 0
        kind = draw.below(4)
        if kind == 0 and len(shape) > place + 1:
            shape[place : place + 2] = [shape[place] * shape[place + 1]]
        elif kind == 1 and len(shape) < 5:
            divisors = [d for d in (2, 3, 4, 8) if shape and shape[place] % d == 0]
            if divisors:
                part = draw.pick(divisors)
                shape[place : place + 1] = [part, shape[place] // part]
        elif kind == 2 and len(shape) < 5:
            shape.insert(place, 1)
        elif shape and shape[place] == 1:
            del shape[place]
    return x.reshape(shape)


def reduce(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    dims = tuple(d for d in range(x.ndim) if draw.chance(0.5)) or (draw.dim(x),)
    function = draw.pick((jnp.mean, jnp.max, jnp.min, jnp.prod, jnp.std))
    if function is jnp.std:
        return jnp.sqrt(jnp.var(x, axis=dims) + 0.1)
    return function(x, axis=dims)


def logical(draw: Draw) -> jax.Array:
    x = draw.argument(least_rank=1) > -1.5
    function = draw.pick((jnp.any, jnp.all, jnp.sum))
    return function(x, axis=draw.dim(x)).astype(jnp.float32)


def argmax(draw: Draw) -> jax.Array:
    x = draw.argument(least_rank=1)
    dim = draw.dim(x)
    return jnp.argmax(x, axis=dim).astype(jnp.float32) / x.shape[dim]


def softmax(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    return jax.nn.softmax(x, axis=draw.dim(x))


def strided_slice(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    starts = [draw.below((extent + 1) // 2) for extent in x.shape]
    limits = [
        max(start + 1, extent - draw.below(extent // 2 + 1))
        for start, extent in zip(starts, x.shape, strict=True)
    ]
    strides = [draw.pick((1, 1, 1, 2)) for _ in x.shape]
    return lax.slice(x, starts, limits, strides)


def half(draw: Draw) -> jax.Array:
    """Half of one dim: other dims stay whole and can be sharded."""
    x = draw.array(least_rank=1)
    dim = draw.dim(x)
    first, *_ = jnp.split(x, 2, axis=dim) if x.shape[dim] % 2 == 0 else (x,)
    return first


def pad(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    config = [
        (draw.below(3), draw.below(3), draw.pick((0, 0, 1)))
        if draw.chance(0.5)
        else (0,) * 3
        for _ in x.shape
    ]
    return lax.pad(x, jnp.float32(0.5), config)


def concatenate(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    other = fitted(draw.array(), x.shape)
    return jnp.concatenate([x, other, x][: 2 + draw.below(2)], axis=draw.dim(x))


def dynamic_slice(draw: Draw) -> jax.Array:
    x, dim = draw.array(least_rank=1), 0
    dim = draw.dim(x)
    start = jnp.ravel(draw.index())[0]
    return lax.dynamic_slice_in_dim(x, start, max(x.shape[dim] // 2, 1), dim)


def dynamic_update_slice(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    dim = draw.dim(x)
    shape = list(x.shape)
    shape[dim] = max(shape[dim] // 2, 1)
    start = jnp.ravel(draw.index())[0]
    return lax.dynamic_update_slice_in_dim(
        x, fitted(draw.array(), tuple(shape)), start, dim
    )


def take(draw: Draw) -> jax.Array:
    x, dim = draw.array(least_rank=1), 0
    dim = draw.dim(x)
    return jnp.take(x, draw.index() % x.shape[dim], axis=dim)


def take_pairs(draw: Draw) -> jax.Array:
    """``x[arange, y]``, as in a cross entropy."""
    x = draw.array(least_rank=2)
    index = jnp.resize(draw.index(), (x.shape[0],)) % x.shape[1]
    return x[jnp.arange(x.shape[0]), index]


def take_along(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    dim = draw.dim(x)
    index = jnp.resize(draw.index(), x.shape) % x.shape[dim]
    return jnp.take_along_axis(x, index, axis=dim)


def scatter(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    index = jnp.ravel(draw.index()) % x.shape[0]
    rows = fitted(draw.array(), (*index.shape, *x.shape[1:]))
    place = x.at[index]
    return draw.pick((place.add, place.max, place.min))(rows) * 0.7


def scatter_zero(draw: Draw) -> jax.Array:
    """The gradient of an embedding."""
    index = jnp.ravel(draw.index()) % 16
    rows = fitted(draw.array(), (*index.shape, draw.pick((4, 8))))
    return jnp.zeros((16, rows.shape[1])).at[index].add(rows) * 0.5


def sort(draw: Draw) -> jax.Array:
    x = draw.argument(least_rank=1)
    dim = draw.dim(x)
    if draw.chance(0.5):
        return jnp.sort(x, axis=dim)
    return jnp.argsort(x, axis=dim).astype(jnp.float32) / x.shape[dim]


def top_k(draw: Draw) -> jax.Array:
    x = draw.argument(least_rank=1)
    values, index = lax.top_k(x, min(2, x.shape[-1]))
    return values + index / x.shape[-1]


def cumulative(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    dim = draw.dim(x)
    function = draw.pick((jnp.cumsum, lax.cummax, lax.cumlogsumexp, jnp.cumprod))
    return function(x, axis=dim) / math.sqrt(x.shape[dim])


def reverse(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    dim = draw.dim(x)
    return jnp.flip(x, dim) if draw.chance(0.5) else jnp.roll(x, 1, dim)


def narrow(draw: Draw) -> jax.Array:
    """A detour through a smaller float; what is lost is lost on both sides."""
    x = draw.argument()
    dtype = draw.pick((jnp.bfloat16, jnp.float16, jnp.int8, jnp.bool_))
    return x.astype(dtype).astype(jnp.float32)


def integers(draw: Draw) -> jax.Array:
    x = draw.argument()
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    mixed = lax.population_count(bits) ^ (bits >> 3)
    return (mixed % 7).astype(jnp.float32)


def bytes_of(draw: Draw) -> jax.Array:
    """A bitcast that adds a dim."""
    x = draw.argument()
    return lax.bitcast_convert_type(x, jnp.uint8).astype(jnp.float32) / 256


def complex_product(draw: Draw) -> jax.Array:
    x = draw.array()
    z = lax.complex(x, fitted(draw.array(), x.shape))
    return jnp.abs(z * jnp.conj(z) + 1j)


def select(draw: Draw) -> jax.Array:
    mask = draw.argument() > 0
    x = fitted(draw.array(), mask.shape)
    return jnp.where(mask, x, draw.pick((0.0, 0.3)))


def iota_mask(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=2)
    rows = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 2)
    columns = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    return jnp.where(rows >= columns, x, 0.1)


def one_hot(draw: Draw) -> jax.Array:
    return jax.nn.one_hot(draw.index(), draw.pick((4, 8, 16)))


def repeat(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    made = jnp.broadcast_to(x[None], (draw.pick((1, 2, 8)), *x.shape))
    return jnp.moveaxis(made, 0, draw.below(made.ndim))


def noise(draw: Draw) -> jax.Array:
    seed = jnp.ravel(draw.index())[0]
    shape = draw.pick(((8, 16), (24,), (2, 4, 8), (4, 6)))
    if draw.chance(0.5):
        return jax.random.normal(jax.random.key(seed), shape)
    state = jnp.stack([seed.astype(jnp.uint32)] * 4)
    _, bits = lax.rng_bit_generator(state, shape)
    return (bits % 128).astype(jnp.float32) / 128


def barrier(draw: Draw) -> jax.Array:
    x, y = draw.array(), draw.array()
    first, second = lax.optimization_barrier((x, y))
    return draw.pick((first, second))


def precision(draw: Draw) -> jax.Array:
    return lax.reduce_precision(draw.argument(), 8, 7)


COMMON: tuple[Step, ...] = (
    binary, broadcast_add, dot, reduce, reshape, softmax, transpose, unary, weighted,
)  # fmt: skip
ARRAYS: tuple[Step, ...] = (
    argmax, barrier, bytes_of, complex_product, concatenate, cumulative, dynamic_slice,
    dynamic_update_slice, half, integers, iota_mask, logical, narrow, noise, one_hot,
    pad, precision, repeat, reverse, scatter, scatter_zero, select, sort,
    strided_slice, take, take_along, take_pairs, top_k,
)  # fmt: skip
