"""Steps on values of every element type, and on shapes of no or one element.

They read the arguments of `Draw.extras`, which hold one array of each kind.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .draws import Draw, Step, fitted

Host = dict[str, np.ndarray | jax.Array]
HALVES = ("bf16", "f16")
EIGHTHS = (jnp.float8_e4m3fn, jnp.float8_e5m2)


def extra_arguments(rng: np.random.Generator) -> Host:
    """One argument of each kind."""
    rows = int(rng.choice((2, 3, 4, 6, 8, 12)))
    plain = rng.normal(size=(rows, 8)).astype(np.float32)
    dtype = EIGHTHS[int(rng.integers(len(EIGHTHS)))]
    return {
        "bf16": plain.astype(jnp.bfloat16),
        "f16": plain.T.astype(np.float16),
        "f8": plain.astype(dtype),
        "i8": rng.integers(-128, 128, (rows, 8)).astype(np.int8),
        "i16": rng.integers(-(2**15), 2**15, (8,)).astype(np.int16),
        "i32": rng.integers(-(2**31), 2**31, (rows, 6)).astype(np.int32),
        "u8": rng.integers(0, 256, (8, rows)).astype(np.uint8),
        "u32": rng.integers(0, 2**32, (4, rows)).astype(np.uint32),
        "bool": rng.random((rows, 8)) > 0.5,
        "complex": (plain + 1j * plain[::-1]).astype(np.complex64),
        "empty": np.zeros((0, 8), np.float32),
        "scalar": np.float32(rng.normal()),
        "key": jax.random.key(int(rng.integers(2**31))),
    }


def half_product(draw: Draw) -> jax.Array:
    """A product of halves, added up in halves or in floats."""
    x = draw.extras[draw.pick(HALVES)]
    y = fitted(draw.argument(), (x.shape[-1], 8)).astype(x.dtype)
    wide = draw.pick((None, jnp.float32))
    made = lax.dot_general(x, y, (((1,), (0,)), ((), ())), preferred_element_type=wide)
    return jnp.tanh(made)


def half_layer(draw: Draw) -> jax.Array:
    """Halves inside, floats outside, and a gradient through both."""
    x = draw.array(least_rank=2)
    dtype = draw.pick((jnp.bfloat16, jnp.float16))
    weight = (fitted(draw.argument(), (x.shape[-1], 8)) / x.shape[-1]).astype(dtype)

    def layer(w):
        return jax.nn.softmax(x.astype(dtype) @ w).astype(jnp.float32)

    if draw.chance(0.5):
        return layer(weight)
    return jax.grad(lambda w: jnp.sum(layer(w) ** 2))(weight).astype(jnp.float32)


def eighth_product(draw: Draw) -> jax.Array:
    """Eighths as they are stored; products of them in wider floats."""
    x = draw.extras["f8"]
    kind = draw.below(3)
    if kind == 0:
        return x.astype(jnp.float32)
    if kind == 1:
        y = fitted(draw.argument(), (x.shape[0], 4)).astype(x.dtype)
        return lax.dot_general(
            x, y, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
    return jnp.transpose(x)[::2].astype(jnp.bfloat16).astype(jnp.float32)


def overflow(draw: Draw) -> jax.Array:
    """Integers that wrap around."""
    x = draw.extras[draw.pick(("i8", "i16", "i32", "u8", "u32"))]
    kind = draw.below(8)
    if kind == 0:
        made = x * x + x
    elif kind == 1:
        made = jnp.sum(x, axis=draw.dim(x), dtype=x.dtype)
    elif kind == 2:
        made = jnp.cumsum(x, axis=draw.dim(x), dtype=x.dtype)
    elif kind == 3:
        made = jnp.prod(x, axis=draw.dim(x), dtype=x.dtype)
    elif kind == 4:
        made = jnp.left_shift(x, 3) ^ jnp.right_shift(x, 2)
    elif kind == 5:
        made = lax.clz(x) + lax.population_count(~x)
    elif kind == 6:
        made = x // draw.pick((3, 7)) + x % 5
    else:
        made = jnp.max(x, axis=draw.dim(x)) - jnp.min(x)
    return (made % 17).astype(jnp.float32) / 17


def integer_product(draw: Draw) -> jax.Array:
    name = draw.pick(("i8", "u8", "i32"))
    x = draw.extras[name]
    wide = jnp.int32 if name != "i32" and draw.chance(0.6) else None
    made = lax.dot_general(
        x, x[:, :3], (((0,), (0,)), ((), ())), preferred_element_type=wide
    )
    return (made % 13).astype(jnp.float32) / 13


def truths(draw: Draw) -> jax.Array:
    x = draw.extras["bool"]
    kind = draw.below(6)
    if kind == 0:
        made = jnp.logical_xor(x, jnp.any(x, axis=0)) & ~x[::-1]
    elif kind == 1:
        made = jnp.all(x, axis=draw.dim(x))
    elif kind == 2:
        made = jnp.cumsum(x, axis=1) % 3
    elif kind == 3:
        made = jnp.nonzero(x, size=8, fill_value=0)[draw.below(2)]
    elif kind == 4:
        made = lax.reduce_xor(x, (draw.dim(x),))
    else:
        made = x @ x.T
    return made.astype(jnp.float32)


def complexes(draw: Draw) -> jax.Array:
    z = draw.extras["complex"]
    kind = draw.below(6)
    if kind == 0:
        made = z @ jnp.conj(z).T / z.shape[1]
    elif kind == 1:
        made = jnp.fft.ifft(jnp.fft.fft(z, axis=1) * 0.5, axis=draw.dim(z))
    elif kind == 2:
        made = jnp.sum(z, axis=draw.dim(z)) / 4
    elif kind == 3:
        made = jnp.exp(z * 0.3) / (2 + jnp.abs(z))
    elif kind == 4:
        made = lax.fori_loop(0, 3, lambda _, c: c * 0.5j + z, z)
    else:
        made = jnp.cumsum(z, axis=draw.dim(z)) / 4
    return jnp.real(made) - jnp.imag(made)


def drawn(draw: Draw) -> jax.Array:
    """What a typed key makes."""
    key = draw.extras["key"]
    if draw.chance(0.5):
        key = jax.random.fold_in(key, jnp.ravel(draw.index())[0])
    first, second = jax.random.split(key)
    kind = draw.below(7)
    if kind == 0:
        return jax.random.uniform(first, (8, 6)) + jax.random.normal(second, (6,))
    if kind == 1:
        return jax.random.bernoulli(first, 0.3, (4, 12)).astype(jnp.float32)
    if kind == 2:
        x = draw.argument(least_rank=1)
        return jax.random.permutation(first, x, axis=draw.dim(x))
    if kind == 3:
        made = jax.random.categorical(first, draw.extras["bf16"].astype(jnp.float32))
        return made.astype(jnp.float32)
    if kind == 4:
        keys = jax.random.split(second, draw.pick((3, 8)))
        return jax.vmap(lambda k: jax.random.normal(k, (4,)))(keys)
    if kind == 5:
        return jax.random.randint(first, (24,), -5, 5).astype(jnp.float32)
    return jax.random.key_data(second).astype(jnp.float32) / 2.0**32


def nothing(draw: Draw) -> jax.Array:
    """Arrays without elements among others."""
    empty = draw.extras["empty"]
    kind = draw.below(6)
    x = fitted(draw.array(), (draw.pick((2, 4, 6)), 8))
    if kind == 0:
        return jnp.concatenate([empty, x * 0.5, empty])
    if kind == 1:
        return jnp.sum(empty * 2, axis=0) + x
    if kind == 2:
        return empty.T @ empty + 0.5 * fitted(x, (8, 8))
    if kind == 3:
        return lax.scan(lambda c, row: (c + row, row), x[0], empty)[0]
    if kind == 4:
        return x.at[jnp.zeros((0,), jnp.int32)].add(empty)
    return jnp.pad(empty, ((1, 2), (0, 0))) + jnp.prod(empty, axis=0)


def scalars(draw: Draw) -> jax.Array:
    s = jnp.tanh(draw.extras["scalar"])
    x = draw.array()
    kind = draw.below(4)
    if kind == 0:
        return x * s
    if kind == 1:
        return s * s + jnp.sum(x) / max(x.size, 1)
    if kind == 2:
        return jnp.full((6, 4), s) + jnp.broadcast_to(jnp.mean(x), (6, 4))
    return jnp.where(s > 0, x, -x) if x.ndim else x - s


def bits(draw: Draw) -> jax.Array:
    """The same bits as another type: wider, narrower, as wide."""
    kind = draw.below(4)
    if kind == 0:
        made = lax.bitcast_convert_type(draw.extras["u32"], jnp.uint16)
    elif kind == 1:
        made = lax.bitcast_convert_type(
            draw.extras["u8"][:, :2].reshape(4, 4), jnp.int32
        )
    elif kind == 2:
        made = lax.bitcast_convert_type(draw.extras["bf16"], jnp.uint16)
    else:
        made = lax.bitcast_convert_type(draw.extras["f8"], jnp.uint8)
    return (made % 31).astype(jnp.float32) / 31


KINDS: tuple[Step, ...] = (
    bits, complexes, drawn, eighth_product, half_layer, half_product, integer_product,
    nothing, overflow, scalars, truths,
)  # fmt: skip
# Rounded to halves on the way: the last bit of a float may become one of a half.
COARSE: frozenset[Step] = frozenset({half_layer, half_product})
