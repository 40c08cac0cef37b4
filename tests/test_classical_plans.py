"""The plans that people made by hand fall out of the search, with no constraints.

Models are written here in plain JAX as a user would write them, f32, Adam. The forced
mesh has four devices on the nominal cluster. What is counted are the collectives of
the compiled program; scalars (the loss, and what pads them) are let by.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import trace
from tepdist.lowering.compiled import compiled_collectives
from tepdist.plans.types import Options
from tepdist.runtime.local import Executable
from tepdist.sharding import Mesh

SCALAR_BYTES = 256
SCALARS_IN_ALL = 4096
STEPS = 3


@dataclass(frozen=True)
class Case:
    """A model with its data.

    Attributes:
        init: ``() -> params``.
        predict: ``(params, x) -> y``.
        batch: Shape of x and y.
    """

    init: Callable[[], object]
    predict: Callable[[object, jax.Array], jax.Array]
    batch: tuple[int, ...]

    def state(self):
        params = self.init()
        return {"params": params, "opt": OPTIMIZER.init(params)}

    def step(self, state, batch):
        def loss(params):
            return jnp.mean((self.predict(params, batch["x"]) - batch["y"]) ** 2)

        value, gradients = jax.value_and_grad(loss)(state["params"])
        updates, opt = OPTIMIZER.update(gradients, state["opt"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt}, (
            value
        )

    def data(self, seed):
        random = np.random.default_rng(seed)
        return {
            name: random.normal(size=self.batch).astype(np.float32) for name in "xy"
        }


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

    return Case(init, predict, (batch, width))


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

        return Case(init, predict, (batch, seq, hidden))

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


def layer_norm(x, params):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * params["g"] + params["b"]


def planned(case: Case, mesh: str = "4"):
    traced = trace(case.step, (case.state(), case.data(0)), {})
    plan = compile_plan(
        traced.read(),
        traced.roles,
        parse_cluster("cpu:4"),
        options=Options(mesh=Mesh.parse(mesh), level="O2"),
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


def test_a_narrow_mlp_on_a_large_batch_is_data_parallel():
    case = mlp(width=32, batch=256)
    traced, executable = planned(case)
    assert_data_parallel(case, executable)
    assert_equals_one_device(case, traced, executable)


def test_a_wide_mlp_on_a_small_batch_alternates_columns_and_rows():
    case = mlp(width=256, batch=32)
    traced, executable = planned(case)
    assert large_collectives(executable) == {("all_reduce", 32 * 256 * 4): 5}
    shardings = executable.plan.argument_shardings()
    cut = [shardings[f"params/{layer}/w"].dims for layer in range(6)]
    rows, columns = (("x",), ()), ((), ("x",))
    assert cut in ([columns, rows] * 3, [rows, columns] * 3)
    assert_equals_one_device(case, traced, executable)


DATA_PARALLEL = {
    "plain": Transformer(),
    "post_norm_relu": Transformer(norm="post", bias=True, act=jax.nn.relu),
    "gpt": Transformer(norm="pre", bias=True, causal=True, fused=False),
}


@pytest.mark.parametrize("written", DATA_PARALLEL.values(), ids=DATA_PARALLEL)
def test_a_narrow_transformer_on_a_large_batch_is_data_parallel(written):
    case = written.case(batch=64, seq=64, hidden=32)
    traced, executable = planned(case)
    assert_data_parallel(case, executable)
    assert_equals_one_device(case, traced, executable)


# The first layer's input needs no gradient, unless a norm's parameters stand there.
TENSOR_PARALLEL = {
    "heads_as_dims": (Transformer(split="dims"), 7),
    "interleaved": (Transformer(split="interleave"), 7),
    "post_norm": (Transformer(norm="post", bias=True, split="interleave"), 7),
    "gpt": (Transformer(norm="pre", bias=True, causal=True, split="dims"), 8),
}


@pytest.mark.parametrize(
    ("written", "count"), TENSOR_PARALLEL.values(), ids=TENSOR_PARALLEL
)
def test_a_wide_transformer_on_a_small_batch_is_tensor_parallel(written, count):
    case = written.case(batch=8, seq=8, hidden=128)
    traced, executable = planned(case)
    assert large_collectives(executable) == {("all_reduce", 8 * 8 * 128 * 4): count}
    assert_equals_one_device(case, traced, executable)


def test_a_fused_projection_cut_in_thirds_moves_only_what_the_cut_asks_for():
    # Thirds of a dim in four shards do not line up: q, k and v have to move, as their
    # gradients have to move back, each a quarter of itself.
    case = Transformer().case(batch=8, seq=8, hidden=128)
    traced, executable = planned(case)
    found = large_collectives(executable)
    activation = 8 * 8 * 128 * 4
    assert found.pop(("all_reduce", activation)) == 7
    assert {kind for kind, _ in found} <= {"all_to_all", "collective_permute"}
    assert max(bytes_ for _, bytes_ in found) < activation
    assert_equals_one_device(case, traced, executable)
