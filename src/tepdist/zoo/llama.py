"""Llama 3: RMS norm, rotary positions, grouped-query attention, SwiGLU; AdamW.

Sizes after Grattafiori et al., arXiv 2407.21783, table 3, and the vocabulary of its
section 3.2; default batches are ours. Shape letters: b batch, s and t positions, d
hidden, k key-value heads, g query heads for each of them, h head dim, f inner width.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax import lax

from tepdist.errors import OptionsError
from tepdist.zoo.blocks import (
    INIT_STD,
    apply_layers,
    dot,
    embed,
    init_layers,
    mask_future,
    normal,
    softmax,
)
from tepdist.zoo.gpt import BATCH_KEYS, make_tokens
from tepdist.zoo.keys import DTYPES, key
from tepdist.zoo.losses import cross_entropy
from tepdist.zoo.program import (
    Model,
    Tree,
    ZooProgram,
    abstract,
    assemble,
    without_stats,
)

RMS_NORM_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class LlamaKeys:
    """Keys of ``zoo:llama``."""

    layers: int = key(2, "transformer layers")
    hidden: int = key(64, "width of the residual stream")
    inner: int = key(192, "width between the dense layers")
    heads: int = key(4, "query heads; divides hidden")
    kv_heads: int = key(2, "key and value heads; divides heads")
    seq: int = key(32, "tokens per sequence")
    vocab: int = key(256, "vocabulary")
    batch: int = key(8, "sequences per step")
    theta: float = key(500000.0, "base of the rotary wavelengths")
    dtype: str = key("f32", "compute dtype; state is f32", tuple(DTYPES))
    scan: bool = key(False, "layers as one loop over stacked ones")  # noqa: FBT003
    remat: str = key("none", "what the backward pass recomputes", ("none", "full"))
    optimizer: str = key(
        "adamw", "none: gradients are added up in the state", ("adamw", "none")
    )
    lr: float = key(1e-3, "AdamW's learning rate")


def _size(shape: tuple[int, int, int, int]) -> LlamaKeys:
    layers, hidden, inner, heads = shape
    return LlamaKeys(
        layers=layers,
        hidden=hidden,
        inner=inner,
        heads=heads,
        kv_heads=8,
        seq=8192,
        vocab=128256,
        batch=64,
        dtype="bf16",
        remat="full",
        lr=3e-4,
    )


SIZES: Mapping[str, LlamaKeys] = {
    "tiny": LlamaKeys(),
    "8b": _size((32, 4096, 14336, 32)),
    "70b": _size((80, 8192, 28672, 64)),
    "405b": _size((126, 16384, 53248, 128)),
}


def build_llama(name: str, keys: LlamaKeys) -> ZooProgram:
    """The train step of this Llama.

    Raises:
        OptionsError: if heads do not divide what they must, or a head is of odd width.
    """
    _check(keys)
    shape = (keys.batch, keys.seq)

    def loss(params: Tree, batch: Tree) -> jax.Array:
        return cross_entropy(logits(params, batch["tokens"], keys), batch["targets"])

    adamw = optax.adamw(keys.lr, b2=0.95, weight_decay=0.1)
    model = Model(
        init_params=lambda key: init_params(key, keys),
        loss=without_stats(loss),
        make_batch=lambda seed: make_tokens(seed, shape, keys.vocab),
        batch={name: abstract(shape, jnp.int32) for name in BATCH_KEYS},
        optimizer=adamw if keys.optimizer == "adamw" else None,
        dtype=keys.dtype,
    )
    return assemble(name, model, dataclasses.asdict(keys))


def _check(keys: LlamaKeys) -> None:
    if keys.hidden % (2 * keys.heads):
        raise OptionsError(
            f"hidden={keys.hidden} is not divided by twice heads={keys.heads}",
            hint="rotary positions turn pairs: the width of a head must be even",
        )
    if keys.heads % keys.kv_heads:
        raise OptionsError(
            f"heads={keys.heads} is not divided by kv_heads={keys.kv_heads}",
            hint="choose kv_heads that divide heads",
        )


def logits(params: Tree, tokens_bs: jax.Array, keys: LlamaKeys) -> jax.Array:
    """Scores of every next token; [b, s] to [b, s, vocab], f32."""
    dtype = DTYPES[keys.dtype]

    def one(x_bsd: jax.Array, layer: Tree) -> jax.Array:
        x_bsd = x_bsd + attention(rms_norm(x_bsd, layer["ln1"]), layer["attn"], keys)
        return x_bsd + swiglu(rms_norm(x_bsd, layer["ln2"]), layer["mlp"])

    x_bsd = embed(params["wte"], tokens_bs).astype(dtype)
    x_bsd = apply_layers(one, x_bsd, params["h"], scan=keys.scan, remat=keys.remat)
    x_bsd = rms_norm(x_bsd, params["ln_f"])
    head_vd = params["head"].astype(dtype)
    return dot(x_bsd, head_vd, contract=((2,), (1,))).astype(jnp.float32)


def rms_norm(x_bsd: jax.Array, gain_d: jax.Array) -> jax.Array:
    """Scaled to a root mean square of one over d, in f32; dtype of the input."""
    x = x_bsd.astype(jnp.float32)
    mean_square = jnp.sum(x * x, axis=-1, keepdims=True) / x.shape[-1]
    scaled: jax.Array = x * lax.rsqrt(mean_square + RMS_NORM_EPSILON) * gain_d
    return scaled.astype(x_bsd.dtype)


def attention(x_bsd: jax.Array, params: Tree, keys: LlamaKeys) -> jax.Array:
    """Causal self-attention; [b, s, d] to [b, s, d].

    Each key-value head serves a group of query heads, which are a dim of their own.
    """
    dtype = x_bsd.dtype
    query_bskgh = dot(x_bsd, params["wq"].astype(dtype), contract=((2,), (0,)))
    key_bskh = dot(x_bsd, params["wk"].astype(dtype), contract=((2,), (0,)))
    value_bskh = dot(x_bsd, params["wv"].astype(dtype), contract=((2,), (0,)))
    query_bskgh = rotate(query_bskgh, keys.theta)
    key_bskh = rotate(key_bskh, keys.theta)
    heads = ((0, 2), (0, 2))
    scores_bksgt = dot(query_bskgh, key_bskh, contract=((4,), (3,)), batch=heads)
    # Widened after the product, so that its backward pass stays narrow too.
    scores_bksgt = scores_bksgt.astype(jnp.float32) * (
        1.0 / math.sqrt(keys.hidden // keys.heads)
    )
    weights_bksgt = softmax(mask_future(scores_bksgt)).astype(dtype)
    mixed_bksgh = dot(
        weights_bksgt, value_bskh, contract=((4,), (1,)), batch=((0, 1), (0, 2))
    )
    out_kghd = params["wo"].astype(dtype)
    return dot(mixed_bksgh, out_kghd, contract=((1, 3, 4), (0, 1, 2)))


def rotate(x: jax.Array, theta: float) -> jax.Array:
    """Rotary positions; [b, s, .., h] to the same, angles in f32.

    Element i of the first half of a head and element i of the second are a pair,
    turned by position * theta ** (-2 i / h).

    Source: Su et al., arXiv 2104.09864, equation 34, with the pairing of GPT-NeoX.
    """
    half = x.shape[-1] // 2
    table = (x.shape[1], half)
    position = lax.broadcasted_iota(jnp.float32, table, 0)
    pair = lax.broadcasted_iota(jnp.float32, table, 1)
    angle = position * lax.exp(pair * (-math.log(theta) / half))
    wide = (*x.shape[:-1], half)
    cos, sin = (
        lax.broadcast_in_dim(each, wide, (1, x.ndim - 1))
        for each in (lax.cos(angle), lax.sin(angle))
    )
    first, second = (
        lax.slice_in_dim(x, start, start + half, axis=-1).astype(jnp.float32)
        for start in (0, half)
    )
    turned = lax.concatenate(
        (first * cos - second * sin, second * cos + first * sin), x.ndim - 1
    )
    return turned.astype(x.dtype)


def swiglu(x_bsd: jax.Array, params: Tree) -> jax.Array:
    """Gated dense layers; [b, s, d] to [b, s, d].

    Source: Shazeer, arXiv 2002.05202, equation 6.
    """
    gate_bsf, up_bsf = (
        dot(x_bsd, params[name].astype(x_bsd.dtype), contract=((2,), (0,)))
        for name in ("gate", "up")
    )
    inner_bsf = gate_bsf * lax.logistic(gate_bsf) * up_bsf
    return dot(inner_bsf, params["down"].astype(x_bsd.dtype), contract=((2,), (0,)))


def init_params(key: jax.Array, keys: LlamaKeys) -> Tree:
    """Parameters in f32; all products' normal of 0.02."""
    layers_key, token_key, head_key = jax.random.split(key, 3)
    table = (keys.vocab, keys.hidden)
    return {
        "wte": normal(token_key, table, INIT_STD),
        "h": init_layers(
            lambda key: init_layer(key, keys),
            jax.random.split(layers_key, keys.layers),
            scan=keys.scan,
        ),
        "ln_f": jnp.ones((keys.hidden,)),
        "head": normal(head_key, table, INIT_STD),
    }


def init_layer(key: jax.Array, keys: LlamaKeys) -> Tree:
    """One layer's parameters.

    Projections into the residual stream are smaller by 1 / sqrt(2 layers).
    """
    d, f, k = keys.hidden, keys.inner, keys.kv_heads
    g, h = keys.heads // k, d // keys.heads
    residual_std = INIT_STD / math.sqrt(2 * keys.layers)
    shapes: Mapping[str, tuple[tuple[int, ...], float]] = {
        "wq": ((d, k, g, h), INIT_STD),
        "wk": ((d, k, h), INIT_STD),
        "wv": ((d, k, h), INIT_STD),
        "wo": ((k, g, h, d), residual_std),
        "gate": ((d, f), INIT_STD),
        "up": ((d, f), INIT_STD),
        "down": ((f, d), residual_std),
    }
    made = {
        name: normal(each, shape, std)
        for each, (name, (shape, std)) in zip(
            jax.random.split(key, len(shapes)), shapes.items(), strict=True
        )
    }
    return {
        "ln1": jnp.ones((d,)),
        "attn": {name: made[name] for name in ("wq", "wk", "wv", "wo")},
        "ln2": jnp.ones((d,)),
        "mlp": {name: made[name] for name in ("gate", "up", "down")},
    }
