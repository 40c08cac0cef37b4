"""GPT with a mixture of experts in every second layer, as in GShard; AdamW.

Sizes after Zheng et al. (Alpa), arXiv 2201.12023, table 6: dense and expert layers of
inner width 8 x hidden, untied embeddings, groups of 2,048 tokens, 2 slots per token's
share, batch 1,024. There the model is masked; here it is causal, in our own GPT's form.
The auxiliary loss and its weight are those of Fedus et al., arXiv 2101.03961,
equation 4, which is GShard's by a factor of experts squared.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from tepdist.errors import OptionsError
from tepdist.zoo.blocks import (
    INIT_STD,
    Stack,
    apply_layers,
    attention,
    dot,
    embed,
    init_layer,
    init_layer_norm,
    init_layers,
    layer,
    layer_norm,
    normal,
)
from tepdist.zoo.experts import Experts, checked_experts, init_experts, mixture
from tepdist.zoo.gpt import BATCH_KEYS, checked_stack, make_tokens
from tepdist.zoo.keys import DTYPES, key
from tepdist.zoo.losses import cross_entropy, make_regression, mean_squared_error
from tepdist.zoo.program import (
    Model,
    Tree,
    ZooProgram,
    abstract,
    assemble,
    without_stats,
)


@dataclass(frozen=True, slots=True)
class MoeKeys:
    """Keys of ``zoo:moe``."""

    layers: int = key(2, "transformer layers, every second one of experts; even")
    hidden: int = key(64, "width of the residual stream")
    inner: int = key(256, "width between dense layers and inside an expert")
    heads: int = key(4, "attention heads; divides hidden")
    experts: int = key(8, "experts of a layer")
    capacity: float = key(2.0, "an expert's slots, in shares of tokens / experts")
    group: int = key(32, "tokens gated together; divides batch times seq")
    seq: int = key(32, "tokens per sequence")
    vocab: int = key(256, "vocabulary")
    batch: int = key(8, "sequences per step")
    dtype: str = key("f32", "compute dtype; state is f32", tuple(DTYPES))
    scan: bool = key(False, "pairs of layers as one loop")  # noqa: FBT003
    remat: str = key("none", "what the backward pass recomputes", ("none", "full"))
    balance: float = key(0.01, "weight of the loss that balances the experts")
    lr: float = key(1e-3, "AdamW's learning rate")


@dataclass(frozen=True, slots=True)
class MoeLayerKeys:
    """Keys of ``zoo:moe_layer``."""

    hidden: int = key(64, "width of a token")
    inner: int = key(256, "width inside an expert")
    experts: int = key(8, "experts")
    capacity: float = key(2.0, "an expert's slots, in shares of tokens / experts")
    group: int = key(32, "tokens gated together; divides batch times seq")
    seq: int = key(32, "tokens per sequence")
    batch: int = key(8, "sequences per step")
    dtype: str = key("f32", "compute dtype; state is f32", tuple(DTYPES))
    balance: float = key(0.01, "weight of the loss that balances the experts")
    lr: float = key(1e-3, "Adam's learning rate")


def _size(shape: tuple[int, int, int], *, batch: int = 1024) -> MoeKeys:
    layers, hidden, experts = shape
    return MoeKeys(
        layers=layers,
        hidden=hidden,
        inner=8 * hidden,
        heads=16,
        experts=experts,
        group=2048,
        seq=1024,
        vocab=32000,
        batch=batch,
        dtype="bf16",
        remat="full",
        lr=3e-4,
    )


SIZES: Mapping[str, MoeKeys] = {
    "tiny": MoeKeys(),
    "380m": _size((8, 768, 8)),
    "1.3b": _size((16, 768, 16)),
    "2.4b": _size((16, 1024, 16)),
    "10b": _size((16, 1536, 32)),
    "27b": _size((16, 2048, 48)),
    "70b": _size((32, 2048, 64)),
    "140b": _size((32, 2048, 128)),
}


def build_moe(name: str, keys: MoeKeys) -> ZooProgram:
    """The train step of this GPT of experts.

    Raises:
        OptionsError: if a key does not divide what it must.
    """
    if keys.layers % 2:
        raise OptionsError(
            f"layers={keys.layers} is odd",
            hint="every second layer has experts: choose an even number",
        )
    stack = dataclasses.replace(
        checked_stack(keys, causal=True, norm="pre"), inner=keys.inner
    )
    experts = _experts(keys)
    shape = (keys.batch, keys.seq)

    def loss(params: Tree, batch: Tree) -> jax.Array:
        scores_bsv, balance = logits(params, batch["tokens"], (stack, experts))
        return cross_entropy(scores_bsv, batch["targets"]) + keys.balance * balance

    model = Model(
        init_params=lambda key: init_params(key, keys, (stack, experts)),
        loss=without_stats(loss),
        make_batch=lambda seed: make_tokens(seed, shape, keys.vocab),
        batch={name: abstract(shape, jnp.int32) for name in BATCH_KEYS},
        optimizer=optax.adamw(keys.lr, b2=0.95, weight_decay=0.1),
        dtype=keys.dtype,
    )
    return assemble(name, model, dataclasses.asdict(keys))


def build_moe_layer(name: str, keys: MoeLayerKeys) -> ZooProgram:
    """The train step of one mixture alone: tokens in, tokens out.

    Raises:
        OptionsError: if a key does not divide what it must.
    """
    experts = _experts(keys)
    shape = (keys.batch, keys.seq, keys.hidden)

    def loss(params: Tree, batch: Tree) -> jax.Array:
        x_bsd = batch["x"].astype(DTYPES[keys.dtype])
        out_bsd, balance = mixture(x_bsd, params, experts)
        return mean_squared_error(out_bsd, batch["y"]) + keys.balance * balance

    def init(key: jax.Array) -> Tree:
        return init_experts(
            key, keys.hidden, experts, out_std=1 / math.sqrt(keys.inner)
        )

    model = Model(
        init_params=init,
        loss=without_stats(loss),
        make_batch=lambda seed: make_regression(seed, shape),
        batch={name: abstract(shape, jnp.float32) for name in ("x", "y")},
        optimizer=optax.adam(keys.lr),
        dtype=keys.dtype,
    )
    return assemble(name, model, dataclasses.asdict(keys))


def _experts(keys: MoeKeys | MoeLayerKeys) -> Experts:
    return checked_experts(
        Experts(keys.experts, keys.inner, keys.capacity, keys.group),
        keys.batch * keys.seq,
    )


def logits(
    params: Tree, tokens_bs: jax.Array, sizes: tuple[Stack, Experts]
) -> tuple[jax.Array, jax.Array]:
    """Scores of every next token, [b, s, vocab], and the loss that balances; f32.

    The latter is the mean over the layers of experts.
    """
    stack, experts = sizes

    def pair(carry: Tree, layers: Tree) -> Tree:
        x_bsd, total = carry
        sparse = layers["sparse"]
        normed_bsd = layer_norm(x_bsd, sparse["ln1"])
        x_bsd = x_bsd + attention(normed_bsd, sparse["attn"], stack)
        normed_bsd = layer_norm(x_bsd, sparse["ln2"])
        out_bsd, balance = mixture(normed_bsd, sparse["experts"], experts)
        return layer(x_bsd + out_bsd, layers["dense"], stack), total + balance

    x_bsd = embed(params["wte"], tokens_bs) + params["wpe"]
    carry = (x_bsd.astype(stack.dtype), jnp.zeros((), jnp.float32))
    x_bsd, total = apply_layers(
        pair, carry, params["h"], scan=stack.scan, remat=stack.remat
    )
    x_bsd = layer_norm(x_bsd, params["ln_f"])
    head_vd = params["head"].astype(stack.dtype)
    scores_bsv = dot(x_bsd, head_vd, contract=((2,), (1,))).astype(jnp.float32)
    return scores_bsv, total / (stack.layers // 2)


def init_params(key: jax.Array, keys: MoeKeys, sizes: tuple[Stack, Experts]) -> Tree:
    """Parameters in f32; embeddings normal of 0.02."""
    pairs_key, token_key, position_key, head_key = jax.random.split(key, 4)
    table = (keys.vocab, keys.hidden)
    return {
        "wte": normal(token_key, table, INIT_STD),
        "wpe": normal(position_key, (keys.seq, keys.hidden), INIT_STD),
        "h": init_layers(
            lambda key: init_pair(key, *sizes),
            jax.random.split(pairs_key, keys.layers // 2),
            scan=keys.scan,
        ),
        "ln_f": init_layer_norm(keys.hidden),
        "head": normal(head_key, table, INIT_STD),
    }


def init_pair(key: jax.Array, stack: Stack, experts: Experts) -> Tree:
    """A layer of experts and the dense layer after it."""
    sparse_key, experts_key, dense_key = jax.random.split(key, 3)
    sparse = init_layer(sparse_key, stack)
    out_std = INIT_STD / math.sqrt(2 * stack.layers)
    mixed = init_experts(experts_key, stack.hidden, experts, out_std=out_std)
    return {
        "sparse": {name: sparse[name] for name in ("ln1", "attn", "ln2")}
        | {"experts": mixed},
        "dense": init_layer(dense_key, stack),
    }
