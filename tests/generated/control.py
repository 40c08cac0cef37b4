"""Steps with control flow: loops, branches, what is differentiated in a way of its own.

As in `ops`, values stay of order one, and what decides how often a loop runs or which
branch is taken is the same to the bit on any number of devices.
"""

import jax
import jax.numpy as jnp
from jax import lax

from .draws import Draw, Step, fitted


def scan(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=2)
    weight = fitted(draw.argument(), (x.shape[-1], x.shape[-1])) / x.shape[-1]

    def body(carry, row):
        made = jnp.tanh(carry @ weight + row)
        return made, made * 0.5

    last, rows = lax.scan(body, jnp.zeros(x.shape[1:]), x)
    return rows if draw.chance(0.5) else last


def loop(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    other = draw.array()
    shift = fitted(other, x.shape)
    trips = draw.pick((0, 1, 3))
    body = draw.pick(
        (
            lambda _, c: jnp.sin(c) + 0.1 * shift,
            lambda i, c: c * 0.5 + jnp.max(c, axis=0, keepdims=True) / (i + 1),
            lambda _, c: jnp.flip(c, 0),
        )
    )
    return lax.fori_loop(0, trips, body, x)


def dynamic_loop(draw: Draw) -> jax.Array:
    """A loop whose trips only its data tell; it has no gradient."""
    x = lax.stop_gradient(draw.array(least_rank=1))

    def unfinished(carry):
        step, total, _ = carry
        return (step < 4) & (jnp.sum(total) < 1e6)

    def body(carry):
        step, total, kept = carry
        return step + 1, total * 0.5 + kept, kept

    return lax.while_loop(unfinished, body, (jnp.int32(0), x, x))[1]


def branch(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=1)
    y = fitted(draw.array(), x.shape)
    chosen = jnp.ravel(draw.index())[0] % 3
    return lax.switch(
        chosen,
        [
            lambda a, b: a + b,
            lambda a, b: jnp.tanh(a) * jnp.mean(b, axis=0),
            lambda a, _: a,
        ],
        x,
        y,
    )


def checkpointed(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=2)
    weight = fitted(draw.argument(), (x.shape[-1], 8)) / x.shape[-1]

    @jax.checkpoint
    def layer(a, w):
        return jnp.tanh(a @ w)

    return jax.grad(lambda a: jnp.sum(layer(a, weight) ** 2))(x)


def stacked_layers(draw: Draw) -> jax.Array:
    """A scan over stacked weights with carried and stacked results."""
    x = draw.array(least_rank=2)
    width, depth = x.shape[-1], draw.pick((1, 2, 3, 4))
    weights = fitted(draw.argument(), (depth, width, width)) / width
    biases = fitted(draw.argument(), (depth, width))

    def layer(carry, leaves):
        (h, total), (weight, bias) = carry, leaves
        h = jnp.tanh(h @ weight + bias) + 0.3 * h
        return (h, total * 0.5 + jnp.mean(h)), h * 0.5

    if draw.chance(0.5):
        layer = jax.checkpoint(layer)
    is_reverse = draw.chance(0.3)

    def run(w):
        return lax.scan(layer, (x, jnp.float32(0)), (w, biases), reverse=is_reverse)

    kind = draw.below(4)
    if kind == 0:
        return jax.grad(lambda w: jnp.mean(run(w)[0][0] ** 2) + run(w)[0][1])(weights)
    (last, total), rows = run(weights)
    return (last, total, rows)[kind - 1]


def swapped_carries(draw: Draw) -> jax.Array:
    """A loop that hands two values back and forth, and one that nothing reads."""
    x = draw.array(least_rank=1)
    y = fitted(draw.array(), x.shape)
    dead = fitted(draw.array(), (4, 6))

    def body(i, carry):
        a, b, unread, kept = carry
        return b * 0.9, a + 0.1 * kept, jnp.sin(unread) + i, kept

    a, b, _, _ = lax.fori_loop(0, draw.pick((1, 2, 3)), body, (x, y, dead, x * 0.2))
    return draw.pick((a, b, a - b))


def indexed_loop(draw: Draw) -> jax.Array:
    """A loop that reads and writes one row at its counter."""
    x = draw.array(least_rank=2)
    dim = draw.dim(x)

    def body(i, carry):
        row = lax.dynamic_index_in_dim(x, i, dim, keepdims=False)
        last = lax.dynamic_index_in_dim(carry, (i - 1) % x.shape[dim], dim)
        made = jnp.expand_dims(jnp.tanh(row), dim) + 0.5 * last
        return lax.dynamic_update_index_in_dim(carry, made, i, dim)

    return lax.fori_loop(0, x.shape[dim], body, jnp.zeros_like(x))


def counted_loop(draw: Draw) -> jax.Array:
    """A loop as long as an argument says."""
    x = lax.stop_gradient(draw.array(least_rank=1))
    count = jnp.ravel(draw.index())[0] % 5

    def body(carry):
        i, a, history = carry
        return i + 1, jnp.cos(a) + 0.1 * i, history.at[i].set(jnp.mean(a))

    start = (jnp.int32(0), x, jnp.zeros(5))
    _, a, history = lax.while_loop(lambda c: c[0] < count, body, start)
    return draw.pick((a, history))


def vectorised_loop(draw: Draw) -> jax.Array:
    """Loops of different lengths at once."""
    counts = jnp.ravel(draw.index()) % 4
    x = lax.stop_gradient(fitted(draw.array(), (*counts.shape, 6)))

    def run(count, row):
        return lax.while_loop(
            lambda c: c[0] < count, lambda c: (c[0] + 1, jnp.sin(c[1]) + 0.5), (0, row)
        )[1]

    return jax.vmap(run)(counts, x)


def nested_loops(draw: Draw) -> jax.Array:
    """A scan in a scan, or a branch or an unbounded loop in one."""
    x = draw.array(least_rank=2)
    other = fitted(draw.array(), x.shape[1:])
    limit = jnp.ravel(draw.index())[0] % 3
    kind = draw.below(4)

    def inner_scan(carry, row):
        def body(a, i):
            return jnp.tanh(a + row * i), jnp.mean(a)

        last, means = lax.scan(body, carry, jnp.arange(2.0))
        return last, last * jnp.sum(means)

    def inner_branch(carry, row):
        made = lax.cond(
            jnp.any(limit == 1), lambda a: jnp.sin(a + other), lambda a: a * row, carry
        )
        return made, made + row

    def inner_while(carry, row):
        made = lax.while_loop(
            lambda c: c[0] < limit,
            lambda c: (c[0] + 1, c[1] * 0.5 + row),
            (jnp.int32(0), carry),
        )[1]
        return made, made

    def inner_switch(carry, row):
        branches = [lambda a: a + row, lambda a: lax.fori_loop(
            0, 2, lambda _, c: jnp.tanh(c + other), a
        ), jnp.zeros_like]  # fmt: skip
        made = lax.switch(limit, branches, carry)
        return made, (made * 0.5)

    if kind == 2:
        x = lax.stop_gradient(x)
    body = (inner_scan, inner_branch, inner_while, inner_switch)[kind]
    last, rows = lax.scan(body, jnp.zeros(x.shape[1:]), x)
    return rows if draw.chance(0.7) else last


def branch_with_closure(draw: Draw) -> jax.Array:
    """A branch that reads values from outside and makes several of its own."""
    x, w = draw.array(least_rank=1), draw.array()
    weight = fitted(w, (x.shape[-1], 8)) / x.shape[-1]
    is_taken = jnp.ravel(draw.index())[0] % 2 == 0

    def yes():
        h = jnp.tanh(x @ weight)
        return h, jnp.sum(h)

    def no():
        return jnp.zeros((*x.shape[:-1], 8)), jnp.float32(0.5)

    h, total = lax.cond(is_taken, yes, no)
    return h * total if draw.chance(0.3) else h


def own_gradient(draw: Draw) -> jax.Array:
    """Functions with a gradient of their own, inside others that are differentiated."""
    x = draw.array(least_rank=1)

    @jax.custom_vjp
    def clipped(a):
        return jnp.tanh(a)

    clipped.defvjp(lambda a: (clipped(a), a), lambda a, s: (s * jnp.cos(a) * 0.3,))

    @jax.custom_jvp
    def smooth(a):
        return jnp.sin(a)

    smooth.defjvp(lambda p, t: (smooth(*p), t[0] * 0.5 * jnp.cos(p[0])))
    function = draw.pick((clipped, smooth, lambda a: clipped(smooth(a))))
    kind = draw.below(3)
    if kind == 0:
        return function(x)
    if kind == 1:
        return jax.jvp(smooth, (x,), (jnp.ones_like(x),))[1]
    return jax.grad(lambda a: jnp.sum(function(a) * jnp.cos(a)))(x)


def second_derivative(draw: Draw) -> jax.Array:
    x = fitted(draw.array(), (draw.pick((2, 3, 8)), 4))
    weight = fitted(draw.argument(), (4, 6))

    def f(row):
        return jnp.sum(jnp.tanh(row @ weight) ** 2)

    return jax.vmap(draw.pick((jax.hessian(f), jax.jacrev(jax.grad(f)))))(x)


def mapped(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=2)
    if draw.chance(0.5):
        return lax.map(lambda row: jnp.tanh(row) - jnp.mean(row), x)
    return lax.associative_scan(
        lambda a, b: a * 0.5 + b, x, axis=draw.dim(x), reverse=draw.chance(0.3)
    )


def rematerialised(draw: Draw) -> jax.Array:
    x = draw.array(least_rank=2)
    weight = fitted(draw.argument(), (x.shape[-1], x.shape[-1])) / x.shape[-1]
    policies = jax.checkpoint_policies
    policy = draw.pick(
        (
            policies.dots_saveable,
            policies.nothing_saveable,
            policies.everything_saveable,
        )
    )

    def block(a):
        return jnp.tanh(jax.nn.standardize(a, epsilon=0.1) @ weight) + a

    checked = jax.checkpoint(block, policy=policy)
    return jax.grad(lambda a: jnp.mean(checked(checked(a)) ** 2) * a.size)(x) * 0.1


def linear_solve(draw: Draw) -> jax.Array:
    """An implicit function: an iteration with a gradient of its own."""
    b = fitted(draw.array(), (draw.pick((4, 8)),))
    raw = fitted(draw.argument(), (b.shape[0], b.shape[0]))
    matrix = raw @ raw.T / b.shape[0] + 4 * jnp.eye(b.shape[0])

    def solve(matvec, right):
        return lax.fori_loop(0, 8, lambda _, x: x + 0.1 * (right - matvec(x)), right)

    return lax.custom_linear_solve(lambda v: matrix @ v, b, solve, symmetric=True)


CONTROL: tuple[Step, ...] = (
    branch, branch_with_closure, checkpointed, counted_loop, dynamic_loop,
    indexed_loop, linear_solve, loop, mapped, nested_loops, own_gradient,
    rematerialised, scan, second_derivative, stacked_layers, swapped_carries,
    vectorised_loop,
)  # fmt: skip
