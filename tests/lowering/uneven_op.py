"""Programs around one op whose values inside have sizes that no mesh axis divides.

Devices hold zeros, or whatever else, after the end of a value that is cut unevenly:
what each op reads is the inverse of that, so that infinity would show. Arguments and
results are cut evenly or not at all, so the result is a number.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .one_op import OneOp, _convolve, _index, _slopes


def _case(fn: Callable[..., Any], *shapes: tuple[int, ...]) -> OneOp:
    def around(*arguments):
        away = [jnp.sign(x) * (jnp.abs(x) + 1) for x in arguments]
        made = fn(*(1.5 / x for x in away))
        return sum(_weighed(leaf) for leaf in jax.tree.leaves(made))

    return OneOp(around, shapes)


def _weighed(x):
    weights = jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)
    return jnp.sum(jnp.tanh(x.astype(jnp.float32) / 50) * weights)


def _entropy(x, i):
    return jax.nn.log_softmax(x, 1)[jnp.arange(15), _index(i)]


def _tied(table, i):
    def loss(e):
        return jnp.sum(jnp.sin(e[_index(i)] @ e.T) * jnp.arange(53.0))

    return jax.grad(loss)(table)


def _loop(x):
    return lax.scan(lambda c, _: (jnp.tanh(c) + 1, c.sum(0)), x, None, length=3)


def _random(x):
    return x + jax.random.normal(jax.random.key(3), x.shape)


def _update(x, u, i):
    return lax.dynamic_update_slice(x, u, (0, _index(i)[0, 0]))


UNEVEN_OPS: Mapping[str, OneOp] = MappingProxyType(
    {
        "pointwise": _case(lambda x, y: jnp.expm1(x) + y, (15, 26), (15, 26)),
        "transpose": _case(lambda x: jnp.transpose(x, (2, 0, 1)), (15, 7, 26)),
        "matmul": _case(lambda x, y: x @ y, (15, 26), (26, 11)),
        "matmul-batched": _case(
            lambda x, y: jnp.einsum("abij,abjk->abik", x, y), (7, 15, 8, 11),
            (7, 15, 11, 8),
        ),
        "attention": _case(
            lambda q, k: jnp.einsum("bthd,bshd->bhts", q, k), (7, 16, 15, 8),
            (7, 8, 15, 8),
        ),
        "contract-2": _case(
            lambda x, y: jnp.einsum("ijk,jkl->il", x, y), (7, 15, 26), (15, 26, 11)
        ),
        "sum-of-products": _case(
            lambda a, b, c, d: a @ b + c @ d, (15, 26), (26, 53), (15, 26), (26, 53)
        ),
        "tied": _case(_tied, (53, 16), (30,)),
        "entropy": _case(_entropy, (15, 53), (15,)),
        "sum": _case(lambda x: jnp.sum(x, 1), (15, 26, 7)),
        "max": _case(lambda x: jnp.max(x, (0, 2)), (15, 26, 7)),
        "min": _case(lambda x: jnp.min(x, 0), (15, 26)),
        "product": _case(lambda x: jnp.prod(x, 1), (15, 26)),
        "all": _case(lambda x: jnp.all(x < 2, 1), (15, 26)),
        "bits": _case(
            lambda x: lax.reduce(
                (x * 9).astype(jnp.int32), np.int32(0), lax.bitwise_or, (1,)
            ),
            (15, 26),
        ),
        "argmax": _case(lambda x: jnp.argmax(x, 1), (15, 26)),
        "log-softmax": _case(lambda x: jax.nn.log_softmax(x, 1), (15, 26)),
        "variance": _case(lambda x: jnp.var(x, 1), (15, 26)),
        "slice": _case(lambda x: x[:, 4:12], (15, 26)),
        "slice-own": _case(lambda x: x[1:, :], (15, 26)),
        "pad": _case(
            lambda x: lax.pad(x, jnp.float32(0), [(0, 0, 0), (3, 0, 0)]), (15, 26)
        ),
        "concatenate": _case(
            lambda x, y: jnp.concatenate([x, y], 1), (15, 26), (15, 26)
        ),
        "reverse": _case(lambda x: jnp.flip(x, 1), (15, 26)),
        "merge": _case(lambda x: x.reshape(15 * 26, 7), (15, 26, 7)),
        "split": _case(lambda x: x.reshape(15, 2, 13), (15, 26)),
        "squeeze": _case(lambda x: x.reshape(15, 1, 26), (15, 26)),
        "broadcast": _case(lambda x, y: x + y[:, None], (15, 26), (15,)),
        "sort": _case(lambda x: jnp.sort(x, 1), (15, 26)),
        "top-k": _case(lambda x: lax.top_k(x, 4)[0], (15, 26)),
        "cumsum": _case(lambda x: jnp.cumsum(x, 1), (15, 26)),
        "gather-rows": _case(lambda x, i: x[_index(i)], (15, 26), (31,)),
        "gather-columns": _case(lambda x, i: x[:, _index(i)], (15, 26), (7,)),
        "take-along": _case(
            lambda x, i: jnp.take_along_axis(x, _index(i), 1), (15, 26), (15, 31)
        ),
        "scatter-add": _case(
            lambda x, i, u: x.at[_index(i)].add(u), (15, 26), (31,), (31, 26)
        ),
        "scatter-max": _case(
            lambda x, i, u: x.at[:, _index(i)].max(u), (15, 26), (31,), (15, 31)
        ),
        "scatter-multiply": _case(
            lambda x, i, u: x.at[_index(i)].multiply(u), (15, 26), (31,), (31, 26)
        ),
        "scatter-zero": _case(
            lambda i, u: jnp.zeros((15, 26)).at[_index(i)].add(u), (31,), (31, 26)
        ),
        "scatter-pairs": _case(
            lambda x, i, u: x.at[jnp.arange(15), _index(i)].add(u), (15, 26), (15,),
            (15,),
        ),
        "dynamic-slice": _case(
            lambda x, i: lax.dynamic_slice_in_dim(x, _index(i)[0, 0], 8, 1), (15, 26),
            (1, 1),
        ),
        "dynamic-update": _case(_update, (15, 26), (15, 7), (1, 1)),
        "convolution": _case(_convolve(), (15, 8, 12, 7), (3, 3, 7, 15)),
        "convolution-slopes": _case(
            _slopes(_convolve()), (15, 8, 12, 7), (3, 3, 7, 15)
        ),
        "random": _case(_random, (15, 26)),
        "loop": _case(_loop, (15, 26)),
    }
)  # fmt: skip
