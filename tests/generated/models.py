"""Training steps and other whole programs that users write, small."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from .programs import Case, moved

BATCH, WIDTH = 16, 32
Rng = np.random.Generator


def _normal(rng: Rng, *shape: int) -> np.ndarray:
    return (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


def _mlp(params: Any, x: jax.Array) -> jax.Array:
    for weight, bias in params[:-1]:
        x = jax.nn.gelu(x @ weight + bias)
    weight, bias = params[-1]
    return x @ weight + bias


def _mlp_params(rng: Rng, *widths: int) -> Any:
    return [
        (_normal(rng, i, o), np.zeros(o, np.float32))
        for i, o in itertools.pairwise(widths)
    ]


OPTIMISERS: Mapping[str, Callable[[], optax.GradientTransformation]] = MappingProxyType(
    {
        "adam": lambda: optax.adam(1e-2),
        "adamw-clipped": lambda: optax.chain(
            optax.clip_by_global_norm(0.5), optax.adamw(1e-2)
        ),
        "momentum": lambda: optax.sgd(1e-2, momentum=0.9, nesterov=True),
        "adafactor": lambda: optax.adafactor(1e-2, min_dim_size_to_factor=8),
        "lamb": lambda: optax.lamb(1e-2),
        "rmsprop": lambda: optax.rmsprop(1e-2, centered=True),
    }
)


def optimiser_case(name: str) -> Case:
    """An MLP with one optimiser, two steps."""
    rng = np.random.default_rng(1)
    optimiser = OPTIMISERS[name]()
    params = _mlp_params(rng, WIDTH, 2 * WIDTH, 8)

    def step(state: Any, x: jax.Array, y: jax.Array) -> Any:
        params, moments = state

        def loss(inner: Any) -> jax.Array:
            return jnp.mean((_mlp(inner, x) - y) ** 2)

        value, slopes = jax.value_and_grad(loss)(params)
        moves, moments = optimiser.update(slopes, moments, params)
        return (optax.apply_updates(params, moves), moments), value

    state = (params, jax.device_get(optimiser.init(params)))
    return Case(
        f"optimiser-{name}",
        step,
        (state, _normal(rng, BATCH, WIDTH) * 4, _normal(rng, BATCH, 8)),
        tolerance=1e-3,
    )


def scaled_loss_case() -> Case:
    """Half precision with a loss scale, and an update only if all is finite."""
    rng = np.random.default_rng(2)
    params = _mlp_params(rng, WIDTH, WIDTH, 8)

    def step(state: Any, x: jax.Array) -> Any:
        params, scale = state

        def loss(inner: Any) -> jax.Array:
            half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), inner)
            made = _mlp(half, x.astype(jnp.bfloat16)).astype(jnp.float32)
            return jnp.mean(made**2) * scale

        value, slopes = jax.value_and_grad(loss)(params)
        leaves = jax.tree.leaves(slopes)
        is_finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(g)) for g in leaves]))
        params = lax.cond(is_finite, lambda: moved(params, slopes), lambda: params)
        return (params, jnp.where(is_finite, scale * 2, scale / 2)), value / scale

    state = (params, np.float32(128))
    return Case("scaled-loss", step, (state, _normal(rng, BATCH, WIDTH)), 2e-2)


def classifier_case() -> Case:
    """Integer labels, cross entropy by ``x[arange, y]``, dropout by a key."""
    rng = np.random.default_rng(3)
    params = _mlp_params(rng, WIDTH, WIDTH, 16)

    def step(params: Any, x: jax.Array, labels: jax.Array, seed: jax.Array) -> Any:
        def loss(inner: Any) -> jax.Array:
            keep = jax.random.bernoulli(jax.random.key(seed), 0.9, x.shape)
            scores = jax.nn.log_softmax(_mlp(inner, jnp.where(keep, x, 0)))
            return -jnp.mean(scores[jnp.arange(BATCH), labels])

        value, slopes = jax.value_and_grad(loss)(params)
        hits = jnp.argmax(_mlp(params, x), 1) == labels
        return moved(params, slopes), (value, jnp.sum(hits))

    labels = rng.integers(0, 16, BATCH).astype(np.int32)
    args = (params, _normal(rng, BATCH, WIDTH) * 4, labels, np.uint32(7))
    return Case("classifier", step, args, 1e-3)


def attention_case(*, scanned: bool) -> Case:
    """Transformer layers with tied embedding: two in a loop, or one written out."""
    rng = np.random.default_rng(4)
    num_layers = 2 if scanned else 1
    heads, width, length, words = 4, 32, 8, 24
    shapes = {"qkv": (width, 3 * width), "out": (width, width)}
    shapes |= {"up": (width, 4 * width), "down": (4 * width, width)}
    layers = {
        name: np.stack([_normal(rng, *shape) for _ in range(num_layers)])
        for name, shape in shapes.items()
    }
    params = {"embed": _normal(rng, words, width), "layers": layers}

    def layer(x: jax.Array, weights: Any) -> tuple[jax.Array, None]:
        normed = jax.nn.standardize(x)
        q, k, v = jnp.split(normed @ weights["qkv"], 3, axis=-1)
        q, k, v = (z.reshape(*z.shape[:2], heads, -1) for z in (q, k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(width // heads)
        mask = jnp.tril(jnp.ones((length, length), bool))
        weighting = jax.nn.softmax(jnp.where(mask, scores, -1e9))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weighting, v).reshape(x.shape)
        x = x + mixed @ weights["out"]
        hidden = jax.nn.gelu(jax.nn.standardize(x) @ weights["up"])
        return x + hidden @ weights["down"], None

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        x = params["embed"][tokens[:, :-1]]
        if scanned:
            x, _ = lax.scan(jax.checkpoint(layer), x, params["layers"])
        else:
            x, _ = layer(x, jax.tree.map(lambda w: w[0], params["layers"]))
        scores = jax.nn.log_softmax(jax.nn.standardize(x) @ params["embed"].T)
        chosen = jnp.take_along_axis(scores, tokens[:, 1:, None], -1)
        return -jnp.mean(chosen)

    def step(params: Any, tokens: jax.Array) -> Any:
        value, slopes = jax.value_and_grad(loss)(params, tokens)
        return moved(params, slopes), value

    tokens = rng.integers(0, words, (BATCH, length + 1)).astype(np.int32)
    name = "attention-scanned" if scanned else "attention"
    return Case(name, step, (params, tokens), 1e-3)


def convolution_case() -> Case:
    """Strided and grouped convolutions, batch statistics, pooling."""
    rng = np.random.default_rng(5)
    params = {
        "first": _normal(rng, 3, 3, 3, 8),
        "grouped": _normal(rng, 3, 3, 4, 16),
        "scale": np.ones(16, np.float32),
        "head": _normal(rng, 16, 8),
    }
    state = (params, np.zeros(16, np.float32))

    def convolve(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, padding="SAME", dimension_numbers=numbers, **options
        )

    def forward(params: Any, mean: jax.Array, x: jax.Array) -> Any:
        x = jax.nn.relu(convolve(x, params["first"], window_strides=(2, 2)))
        x = convolve(x, params["grouped"], window_strides=(1, 1), feature_group_count=2)
        now = jnp.mean(x, (0, 1, 2))
        x = (x - now) * lax.rsqrt(jnp.var(x, (0, 1, 2)) + 1e-3) * params["scale"]
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = jnp.mean(x, (1, 2)) @ params["head"]
        return jnp.mean(x**2), 0.9 * mean + 0.1 * now

    def step(state: Any, x: jax.Array) -> Any:
        params, mean = state
        (value, mean), slopes = jax.value_and_grad(forward, has_aux=True)(
            params, mean, x
        )
        return (moved(params, slopes), mean), value

    images = rng.normal(size=(8, 16, 16, 3)).astype(np.float32)
    return Case("convolution", step, (state, images), 1e-3)


def experts_case() -> Case:
    """A mixture of experts with capacity, dispatched by products."""
    rng = np.random.default_rng(6)
    experts, capacity = 8, 4
    params = {
        "gate": _normal(rng, WIDTH, experts),
        "up": np.stack([_normal(rng, WIDTH, 16) for _ in range(experts)]),
        "down": np.stack([_normal(rng, 16, WIDTH) for _ in range(experts)]),
    }

    def loss(params: Any, x: jax.Array) -> jax.Array:
        gates = jax.nn.softmax(x @ params["gate"])
        chosen = jax.nn.one_hot(jnp.argmax(gates, -1), experts)
        place = jnp.cumsum(chosen, axis=0) * chosen - chosen
        kept = (
            chosen[..., None]
            * jax.nn.one_hot(jnp.sum(place, -1).astype(jnp.int32), capacity)[:, None]
        )
        packed = jnp.einsum("tec,td->ecd", kept, x)
        hidden = jax.nn.relu(jnp.einsum("ecd,edf->ecf", packed, params["up"]))
        made = jnp.einsum("ecf,efd->ecd", hidden, params["down"])
        weighted = kept * jnp.max(gates, -1)[:, None, None]
        return jnp.mean((x + jnp.einsum("tec,ecd->td", weighted, made)) ** 2)

    def step(params: Any, x: jax.Array) -> Any:
        value, slopes = jax.value_and_grad(loss)(params, x)
        return moved(params, slopes), value

    return Case("experts", step, (params, _normal(rng, BATCH, WIDTH) * 4), 1e-3)


def custom_gradient_case() -> Case:
    """A function with a gradient of its own, in a rematerialised loop."""
    rng = np.random.default_rng(7)

    @jax.custom_vjp
    def clipped(x: jax.Array) -> jax.Array:
        return jnp.clip(x, -1, 1)

    clipped.defvjp(lambda x: (clipped(x), ()), lambda _, slope: (slope * 0.5,))

    def loss(weight: jax.Array, x: jax.Array) -> jax.Array:
        body = jax.checkpoint(lambda c, _: (clipped(c @ weight), jnp.sum(c)))
        last, sums = lax.scan(body, x, None, length=3)
        return jnp.mean(last**2) + jnp.mean(sums) * 1e-3

    def step(weight: jax.Array, x: jax.Array) -> Any:
        value, slope = jax.value_and_grad(loss)(weight, x)
        return moved(weight, slope), value

    args = (_normal(rng, WIDTH, WIDTH), _normal(rng, BATCH, WIDTH) * 4)
    return Case("custom-gradient", step, args, 1e-3)


def recurrent_case() -> Case:
    """A gated recurrence over time, its gradient accumulated over parts of a batch."""
    rng = np.random.default_rng(8)
    params = {"in": _normal(rng, 8, 96), "own": _normal(rng, 32, 96)}

    def loss(params: Any, x: jax.Array) -> jax.Array:
        def cell(carry: jax.Array, row: jax.Array) -> Any:
            update, reset, new = jnp.split(
                row @ params["in"] + carry @ params["own"], 3, axis=-1
            )
            kept = jax.nn.sigmoid(update)
            made = kept * carry + (1 - kept) * jnp.tanh(new * jax.nn.sigmoid(reset))
            return made, made

        _, rows = lax.scan(cell, jnp.zeros((x.shape[1], 32)), x)
        return jnp.mean(rows**2)

    def step(params: Any, x: jax.Array) -> Any:
        def add(total: Any, part: jax.Array) -> Any:
            value, slopes = jax.value_and_grad(loss)(params, part)
            return jax.tree.map(jnp.add, total, slopes), value

        zeros = jax.tree.map(jnp.zeros_like, params)
        total, values = lax.scan(add, zeros, x)
        return moved(params, total), jnp.mean(values)

    return Case("recurrent", step, (params, _normal(rng, 4, 6, 8, 8) * 3), 1e-3)


def plain_cases() -> Iterator[Case]:
    """Programs that hardly compute: what comes back must still be right."""
    rng = np.random.default_rng(9)
    matrix, ones = _normal(rng, 8, 16), np.ones((4, 6), np.float32)
    yield Case("as-is", lambda x, y: (x, y), (matrix, ones))
    yield Case("twice", lambda x: (x * 2, x * 2, x), (matrix,))
    yield Case("constant", lambda x: (jnp.zeros((8, 4)), jnp.int32(3)), (matrix,))
    yield Case("unused", lambda x, y: x.T, (matrix, ones))
    yield Case("scalar", lambda x: (x + 1, x * 2), (np.float32(3),))
    yield Case("unchanged", lambda s, x: ({**s, "b": s["b"] + x}, x.sum()), (
        {"a": matrix, "b": ones}, ones
    ))  # fmt: skip
    yield Case(
        "swapped", lambda s, x: ((s[1], s[0]), x.sum()), ((matrix, matrix + 1), ones)
    )
    yield Case("empty", lambda x: (x[:0], x[:, :0] @ x.T[:0]), (matrix,))
    yield Case("integers", lambda x: (x @ x.T, x // 3, x % 5, x << 1), (
        rng.integers(-9, 9, (8, 8)).astype(np.int32),
    ))  # fmt: skip
    yield Case("booleans", lambda x: (x & x.T, jnp.all(x, 0), ~x), (
        rng.random((8, 8)) > 0.5,
    ))  # fmt: skip
    yield Case("complex", lambda x: (x @ x.T, jnp.conj(x), jnp.abs(x)), (
        (matrix + 1j * matrix).astype(np.complex64),
    ))  # fmt: skip
    half = matrix.astype(jnp.bfloat16)
    yield Case("half", lambda x: (x @ x.T, x.astype(jnp.float16)), (half,), 2e-2)
    yield Case("key", _split_and_draw, (jax.random.key(3), matrix))


def _split_and_draw(key: jax.Array, x: jax.Array) -> Any:
    return jax.random.split(key)[0], x + jax.random.normal(key, x.shape)


def all_cases() -> tuple[Case, ...]:
    """Every case of this file."""
    return (
        *plain_cases(),
        *(optimiser_case(name) for name in OPTIMISERS),
        scaled_loss_case(),
        classifier_case(),
        attention_case(scanned=False),
        attention_case(scanned=True),
        convolution_case(),
        experts_case(),
        custom_gradient_case(),
        recurrent_case(),
    )
