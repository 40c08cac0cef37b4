"""Models as users write them in plain JAX, f32, Adam; and what plans for them do.

What is counted are the collectives of the compiled program; scalars (the loss, and
what pads them) are let by.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import trace
from tepdist.lowering.compiled import compiled_collectives
from tepdist.plans.types import Options
from tepdist.runtime.local import Executable
from tepdist.sharding import Mesh
from tepdist.zoo.experts import Experts, mixture

SCALAR_BYTES = 256
SCALARS_IN_ALL = 4096
STEPS = 3


@dataclass(frozen=True)
class Case:
    """A model with its data.

    Attributes:
        init: ``() -> params``.
        loss: ``(params, batch) -> scalar``.
        data: ``seed -> batch``.
    """

    init: Callable[[], object]
    loss: Callable[[object, object], jax.Array]
    data: Callable[[int], object]

    def state(self):
        params = self.init()
        return {"params": params, "opt": OPTIMIZER.init(params)}

    def step(self, state, batch):
        value, gradients = jax.value_and_grad(self.loss)(state["params"], batch)
        updates, opt = OPTIMIZER.update(gradients, state["opt"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt}, (
            value
        )


def regression(init, predict, shape: tuple[int, ...], *, out=None) -> Case:
    """A model of arrays of one shape, least squares.

    Args:
        init: ``() -> params``.
        predict: ``(params, x) -> y``.
        shape: Of x.
        out: Of y; x's unless told.
    """

    def data(seed):
        random = np.random.default_rng(seed)
        x = random.normal(size=shape).astype(np.float32)
        return {"x": x, "y": random.normal(size=out or shape).astype(np.float32)}

    def loss(params, batch):
        return jnp.mean((predict(params, batch["x"]) - batch["y"]) ** 2)

    return Case(init, loss, data)


def normal(random, *shape) -> jax.Array:
    std = 1 / math.sqrt(math.prod(shape[:-1]))
    return jnp.asarray(random.normal(size=shape) * std, jnp.float32)


OPTIMIZER = optax.adam(1e-3)


def mlp(*, width: int, batch: int, layers: int = 6) -> Case:
    def init():
        random = np.random.default_rng(0)
        return [
            {
                "w": jnp.asarray(
                    random.normal(size=(width, width)) / math.sqrt(width), jnp.float32
                ),
                "b": jnp.zeros(width),
            }
            for _ in range(layers)
        ]

    def predict(params, x):
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return x @ params[-1]["w"] + params[-1]["b"]

    return regression(init, predict, (batch, width))


@dataclass(frozen=True)
class Transformer:
    """How a transformer layer is written.

    Attributes:
        fused: One product for q, k and v.
        norm: ``none``, ``pre`` or ``post``.
        bias: Whether products have one (the keys never: softmax does not see it).
        act: Between the two products of the feed-forward half.
        causal: Whether later positions are masked.
        split: How heads are made of the hidden dim: ``reshape`` (all of q, then k,
            then v), ``interleave`` (q, k, v of each head in turn), or ``dims``, where
            the weights have a dim for them.
    """

    fused: bool = True
    norm: str = "none"
    bias: bool = False
    act: Callable[[jax.Array], jax.Array] = jax.nn.gelu
    causal: bool = False
    split: str = "reshape"

    def case(self, *, batch, seq, hidden, heads=8, layers=2):
        def init():
            random = np.random.default_rng(0)

            def normal(*shape):
                std = 0.5 / math.sqrt(hidden)
                return jnp.asarray(random.normal(size=shape) * std, jnp.float32)

            return [self._init(normal, hidden, heads) for _ in range(layers)]

        def predict(params, x):
            for layer in params:
                x = self._layer(layer, x, heads)
            return x

        return regression(init, predict, (batch, seq, hidden))

    def _init(self, normal, d, n):
        h = d // n
        params = {"wo": normal(d, d), "w1": normal(d, 4 * d), "w2": normal(4 * d, d)}
        if self.split == "dims":
            params["wo"] = normal(n, h, d)
        if not self.fused:
            params |= {name: normal(d, d) for name in ("wq", "wk", "wv")}
        elif self.split == "dims":
            params["wqkv"] = normal(d, 3, n, h)
        else:
            params["wqkv"] = normal(d, 3 * d)
        if self.bias:
            params |= {"bo": jnp.zeros(d), "b1": jnp.zeros(4 * d), "b2": jnp.zeros(d)}
        if self.norm != "none":
            for name in ("n1", "n2"):
                params[name] = {"g": jnp.ones(d), "b": jnp.zeros(d)}
        return params

    def _layer(self, params, x, heads):
        def bias(name):
            return params.get(name, 0.0)

        def attend(x):
            return self._attention(params, x, heads) + bias("bo")

        def feed(x):
            return self.act(x @ params["w1"] + bias("b1")) @ params["w2"] + bias("b2")

        if self.norm == "post":
            x = layer_norm(x + attend(x), params["n1"])
            return layer_norm(x + feed(x), params["n2"])
        if self.norm == "pre":
            x = x + attend(layer_norm(x, params["n1"]))
            return x + feed(layer_norm(x, params["n2"]))
        x = x + attend(x)
        return x + feed(x)

    def _heads(self, params, x, n):
        b, s, d = x.shape
        h = d // n
        if self.split == "dims":
            return jnp.einsum("bsd,dknh->kbnsh", x, params["wqkv"])
        if self.split == "interleave":
            qkv = (x @ params["wqkv"]).reshape(b, s, n, 3, h)
            return qkv.transpose(3, 0, 2, 1, 4)
        if self.fused:
            parts = jnp.split(x @ params["wqkv"], 3, axis=-1)
        else:
            parts = [x @ params[name] for name in ("wq", "wk", "wv")]
        return [p.reshape(b, s, n, h).transpose(0, 2, 1, 3) for p in parts]

    def _attention(self, params, x, n):
        b, s, d = x.shape
        h = d // n
        q, k, v = self._heads(params, x, n)
        scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(h)
        if self.causal:
            scores = jnp.where(jnp.tril(jnp.ones((s, s), bool)), scores, -1e9)
        mixed = jax.nn.softmax(scores) @ v
        if self.split == "dims":
            return jnp.einsum("bnsh,nhd->bsd", mixed, params["wo"])
        return mixed.transpose(0, 2, 1, 3).reshape(b, s, d) @ params["wo"]


def tied(*, batch, seq, vocabulary, hidden) -> Case:
    """A language model of one hidden layer, its embedding used at both ends."""

    def init():
        random = np.random.default_rng(0)
        return {
            "table": normal(random, hidden, vocabulary).T,
            "w1": normal(random, hidden, 4 * hidden),
            "w2": normal(random, 4 * hidden, hidden),
        }

    def loss(params, batch):
        x = params["table"][batch["tokens"]]
        x = x + jax.nn.gelu(x @ params["w1"]) @ params["w2"]
        logits = x @ params["table"].T
        picked = jax.nn.one_hot(batch["targets"], vocabulary)
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * picked, axis=-1))

    def data(seed):
        random = np.random.default_rng(seed)
        made = random.integers(0, vocabulary, (2, batch, seq)).astype(np.int32)
        return {"tokens": made[0], "targets": made[1]}

    return Case(init, loss, data)


def conv_net(*, batch, size, channels, layers=3) -> Case:
    """Convolutions with batch norms between them."""

    def init():
        random = np.random.default_rng(0)
        return [
            {
                "kernel": normal(random, 3, 3, channels, channels),
                "scale": jnp.ones(channels),
                "shift": jnp.zeros(channels),
            }
            for _ in range(layers)
        ]

    def predict(params, x):
        for layer in params:
            x = jax.lax.conv_general_dilated(
                x, layer["kernel"], (1, 1), "SAME", dimension_numbers=_NHWC
            )
            mean = x.mean((0, 1, 2))
            variance = ((x - mean) ** 2).mean((0, 1, 2))
            x = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
            x = jax.nn.relu(x * layer["scale"] + layer["shift"])
        return x

    return regression(init, predict, (batch, size, size, channels))


_NHWC = ("NHWC", "HWIO", "NHWC")


def expert_layer(*, batch, seq, hidden, experts, inner) -> Case:
    """A GShard layer: every token through two of the experts."""
    sizes = Experts(count=experts, inner=inner, capacity=2.0, group=seq)

    def init():
        random = np.random.default_rng(0)
        return {
            "router": normal(random, hidden, experts),
            "w1": jnp.stack([normal(random, hidden, inner) for _ in range(experts)]),
            "w2": jnp.stack([normal(random, inner, hidden) for _ in range(experts)]),
        }

    def predict(params, x):
        out, balance = mixture(x, params, sizes)
        return x + out + 0.01 * balance

    return regression(init, predict, (batch, seq, hidden))


def layer_norm(x, params):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * params["g"] + params["b"]


def planned(case: Case, mesh: str | None = "4", level: str = "O2"):
    """On a mesh of four or eight devices; on eight that are free if it is None."""
    traced = trace(case.step, (case.state(), case.data(0)), {})
    forced = None if mesh is None else Mesh.parse(mesh)
    num_devices = 8 if forced is None else forced.num_devices
    plan = compile_plan(
        traced.read(),
        traced.roles,
        parse_cluster(f"cpu:{num_devices}"),
        options=Options(mesh=forced, level=level),
    )
    return traced, Executable(plan)


def large_collectives(executable: Executable) -> Counter:
    """(kind, bytes) of every collective that is no scalar, by number of calls."""
    found, small = Counter(), 0
    (text,) = executable.hlo_text()
    for collective in compiled_collectives(text):
        if collective.bytes_ <= SCALAR_BYTES:
            small += collective.bytes_ * collective.count
        else:
            found[collective.kind, collective.bytes_] += collective.count
    assert small <= SCALARS_IN_ALL
    return found


def num_bytes(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def assert_data_parallel(case: Case, executable: Executable) -> None:
    """One all-reduce of all gradients, the loss beside them at most; nothing else."""
    found = large_collectives(executable)
    assert {kind for kind, _ in found} == {"all_reduce"}
    payload = sum(bytes_ * count for (_, bytes_), count in found.items())
    parameters = num_bytes(case.init())
    assert parameters <= payload <= parameters + SCALAR_BYTES


def assert_equals_one_device(case: Case, traced, executable: Executable) -> None:
    """Losses within 1e-4, and every leaf of the state within 1e-3 of its largest."""
    state = case.state()
    single = jax.jit(case.step)
    count = len(jax.tree.leaves(state))
    held = [executable.put(i, leaf) for i, leaf in enumerate(jax.tree.leaves(state))]
    for seed in range(STEPS):
        batch = case.data(seed)
        state, loss = single(state, batch)
        sent = [
            executable.put(count + i, leaf)
            for i, leaf in enumerate(jax.tree.leaves(batch))
        ]
        got, got_loss = traced.unflatten(executable([*held, *sent]))
        held = jax.tree.leaves(got)
        np.testing.assert_allclose(got_loss, loss, rtol=1e-4)
    for leaf, expected in zip(held, jax.tree.leaves(state), strict=True):
        largest = float(np.abs(expected).max())
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=1e-3 * largest)
