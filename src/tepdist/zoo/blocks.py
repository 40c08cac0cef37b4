"""Parts of a transformer, written so that they shard well and lower to few ops.

Heads and the q, k, v triple are dims of their own, so that no reshape or split runs
along a dim that a plan may cut. Plain `lax` where `jax.numpy` would leave a call.
Shape letters: b batch, s and t positions, d hidden, n heads, h head dim, f inner width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tepdist.zoo.program import Tree

LAYER_NORM_EPSILON = 1e-5
MASKED = -1e30
INIT_STD = 0.02
GELU_SLOPE = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


@dataclass(frozen=True, slots=True)
class Stack:
    """Sizes of a stack of transformer layers.

    Attributes:
        layers: How many.
        hidden: Width d of the residual stream.
        inner: Width f between the two dense layers.
        heads: Attention heads; divides `hidden`.
        dtype: Compute dtype; parameters are f32.
        causal: Whether a position sees only earlier ones and itself.
        norm: ``pre``: before each half of a layer (GPT-2); ``post``: after it, on the
            residual stream (Vaswani et al.).
        scan: Whether the layers are one loop over stacked parameters.
        remat: ``full`` recomputes each layer in the backward pass, ``none`` nothing.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    dtype: Any
    causal: bool
    norm: str
    scan: bool
    remat: str


def dot(
    left: jax.Array,
    right: jax.Array,
    *,
    contract: tuple[tuple[int, ...], tuple[int, ...]],
    batch: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
    dtype: Any = None,
) -> jax.Array:
    """Matrix product: dims of the result are batch, then left's, then right's."""
    dims = (contract, batch)
    product: jax.Array = lax.dot_general(
        left, right, dims, preferred_element_type=dtype
    )
    return product


def dense(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    *,
    contract: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
) -> jax.Array:
    """Product and bias in the dtype of `x`; contracts x's last dim unless told."""
    dims = contract or ((x.ndim - 1,), (0,))
    out: jax.Array = dot(x, weight.astype(x.dtype), contract=dims)
    return out + bias.astype(x.dtype)


def embed(table_vd: jax.Array, tokens_bs: jax.Array) -> jax.Array:
    """Rows of the table; one gather, for tokens that are in bounds; [b, s, d]."""
    dims = lax.GatherDimensionNumbers(
        offset_dims=(2,), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    return lax.gather(
        table_vd,
        lax.expand_dims(tokens_bs, (2,)),
        dims,
        slice_sizes=(1, table_vd.shape[1]),
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )


def layer_norm(x_bsd: jax.Array, params: Tree) -> jax.Array:
    """Normalised over d, in f32; dtype of the input."""
    x = x_bsd.astype(jnp.float32)
    hidden = x.shape[-1]
    centred = x - jnp.sum(x, axis=-1, keepdims=True) / hidden
    variance = jnp.sum(centred * centred, axis=-1, keepdims=True) / hidden
    unit = centred * lax.rsqrt(variance + LAYER_NORM_EPSILON)
    gain, bias = params["g"], params["b"]
    scaled: jax.Array = unit * gain + bias
    return scaled.astype(x_bsd.dtype)


def relu(x: jax.Array) -> jax.Array:
    """The positive part."""
    return lax.select(x > 0, x, lax.full_like(x, 0))


def gelu(x: jax.Array) -> jax.Array:
    """Tanh form.

    Source: Hendrycks and Gimpel, arXiv 1606.08415, section 2.
    """
    inner = GELU_SLOPE * (x + GELU_CUBIC * (x * x * x))
    return 0.5 * x * (1.0 + lax.tanh(inner))


def softmax(x: jax.Array) -> jax.Array:
    """Over the last dim."""
    shifted = lax.exp(x - lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True)))
    return shifted / jnp.sum(shifted, axis=-1, keepdims=True)


def attention(x_bsd: jax.Array, params: Tree, stack: Stack) -> jax.Array:
    """Multi-head self-attention; [b, s, d] to [b, s, d].

    There is no key bias: softmax does not see it and its gradient is zero.
    """
    dtype = stack.dtype
    qkv_bstnh = dot(x_bsd, params["wqkv"].astype(dtype), contract=((2,), (0,)))
    query, key, value = (
        lax.index_in_dim(qkv_bstnh, index, 2, keepdims=False) for index in range(3)
    )
    query = query + params["bq"].astype(dtype)
    value = value + params["bv"].astype(dtype)
    scores_bnst = dot(query, key, contract=((3,), (3,)), batch=((0, 2), (0, 2)))
    # Widened after the product, so that its backward pass stays narrow too.
    scores_bnst = scores_bnst.astype(jnp.float32) * (
        1.0 / math.sqrt(stack.hidden // stack.heads)
    )
    if stack.causal:
        scores_bnst = mask_future(scores_bnst)
    weights_bnst = softmax(scores_bnst).astype(dtype)
    mixed_bnsh = dot(weights_bnst, value, contract=((3,), (1,)), batch=((0, 1), (0, 2)))
    return dense(mixed_bnsh, params["wo"], params["bo"], contract=((1, 3), (0, 1)))


def mask_future(scores: jax.Array) -> jax.Array:
    """Scores [b, n, s, .., t] with those of later positions (t > s) out of reach."""
    shape = scores.shape
    columns_dim = scores.ndim - 1
    pairs = (shape[2], shape[columns_dim])
    rows, columns = (lax.broadcasted_iota(jnp.int32, pairs, dim) for dim in (0, 1))
    seen = lax.broadcast_in_dim(rows >= columns, shape, (2, columns_dim))
    return lax.select(seen, scores, lax.full(shape, MASKED, scores.dtype))


def feed_forward(x_bsd: jax.Array, params: Tree) -> jax.Array:
    """Two dense layers with a gelu between; [b, s, d] to [b, s, d]."""
    inner_bsf = gelu(dense(x_bsd, params["w1"], params["b1"]))
    return dense(inner_bsf, params["w2"], params["b2"])


def layer(x_bsd: jax.Array, params: Tree, stack: Stack) -> jax.Array:
    """One transformer layer; [b, s, d] to [b, s, d]."""
    attn, mlp, ln1, ln2 = (params[name] for name in ("attn", "mlp", "ln1", "ln2"))
    if stack.norm == "post":
        x_bsd = layer_norm(x_bsd + attention(x_bsd, attn, stack), ln1)
        return layer_norm(x_bsd + feed_forward(x_bsd, mlp), ln2)
    x_bsd = x_bsd + attention(layer_norm(x_bsd, ln1), attn, stack)
    return x_bsd + feed_forward(layer_norm(x_bsd, ln2), mlp)


def apply_stack(x_bsd: jax.Array, params: Tree, stack: Stack) -> jax.Array:
    """All layers in turn."""

    def one(x: jax.Array, layer_params: Tree) -> jax.Array:
        return layer(x, layer_params, stack)

    out: jax.Array = apply_layers(
        one, x_bsd, params, scan=stack.scan, remat=stack.remat
    )
    return out


def init_stack(key: jax.Array, stack: Stack) -> Tree:
    """Parameters of all layers; f32."""
    keys = jax.random.split(key, stack.layers)
    return init_layers(lambda key: init_layer(key, stack), keys, scan=stack.scan)


def apply_layers(
    one: Callable[[Tree, Tree], Tree], x: Tree, params: Tree, *, scan: bool, remat: str
) -> Tree:
    """`one(x, layer_params) -> x` for each layer in turn.

    Args:
        one: A layer; its result is like `x`.
        x: What goes into the first layer.
        params: As from `init_layers`.
        scan: Whether the layers are one loop.
        remat: ``full``: the backward pass recomputes each layer; ``none``: nothing.
    """
    if remat == "full":
        # Inside a scan nothing can be merged with the forward pass anyway.
        one = jax.checkpoint(one, prevent_cse=not scan)
    if scan:
        final, _ = lax.scan(lambda x, p: (one(x, p), None), x, params)
        return final
    for layer_params in params:
        x = one(x, layer_params)
    return x


def init_layers(
    one: Callable[[jax.Array], Tree], keys: jax.Array, *, scan: bool
) -> Tree:
    """`one(key)` for each layer's key: a tuple, or stacked for a scan."""
    if scan:
        return jax.vmap(one)(keys)
    return tuple(one(keys[index]) for index in range(keys.shape[0]))


def init_layer(key: jax.Array, stack: Stack) -> Tree:
    """One layer's parameters.

    Source: GPT-2: normal of 0.02, projections into the residual stream by
    1 / sqrt(2 layers) less.
    """
    d, n, f = stack.hidden, stack.heads, stack.inner
    h = d // n
    keys = jax.random.split(key, 4)
    residual_std = INIT_STD / math.sqrt(2 * stack.layers)
    return {
        "ln1": init_layer_norm(d),
        "attn": {
            "wqkv": normal(keys[0], (d, 3, n, h), INIT_STD),
            "bq": jnp.zeros((n, h)),
            "bv": jnp.zeros((n, h)),
            "wo": normal(keys[1], (n, h, d), residual_std),
            "bo": jnp.zeros((d,)),
        },
        "ln2": init_layer_norm(d),
        "mlp": {
            "w1": normal(keys[2], (d, f), INIT_STD),
            "b1": jnp.zeros((f,)),
            "w2": normal(keys[3], (f, d), residual_std),
            "b2": jnp.zeros((d,)),
        },
    }


def init_layer_norm(hidden: int) -> Tree:
    """Identity."""
    return {"g": jnp.ones((hidden,)), "b": jnp.zeros((hidden,))}


def normal(key: jax.Array, shape: tuple[int, ...], std: float) -> jax.Array:
    """Normal f32 numbers of mean 0."""
    return jax.random.normal(key, shape, jnp.float32) * std
