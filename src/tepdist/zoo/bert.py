"""BERT: a masked language model, AdamW.

Source: Devlin et al., arXiv 1810.04805, section 3 and appendix A; the small size:
Turc et al., arXiv 1908.08962, table 1. As there the head scores only the masked
positions, whose number per sequence is fixed. No next-sentence task, no dropout.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from tepdist.errors import OptionsError
from tepdist.zoo.blocks import (
    INIT_STD,
    Stack,
    apply_stack,
    dense,
    dot,
    embed,
    gelu,
    init_layer_norm,
    init_stack,
    layer_norm,
    normal,
)
from tepdist.zoo.gpt import checked_stack
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

SEGMENTS = 2


@dataclass(frozen=True, slots=True)
class BertKeys:
    """Keys of ``zoo:bert``."""

    layers: int = key(2, "transformer layers")
    hidden: int = key(64, "width of the residual stream")
    heads: int = key(4, "attention heads; divides hidden")
    seq: int = key(32, "tokens per sequence")
    masked: int = key(4, "masked tokens per sequence")
    vocab: int = key(256, "vocabulary; the last one is the mask")
    batch: int = key(8, "sequences per step")
    dtype: str = key("f32", "compute dtype; state is f32", tuple(DTYPES))
    scan: bool = key(False, "layers as one loop over stacked ones")  # noqa: FBT003
    remat: str = key("none", "what the backward pass recomputes", ("none", "full"))
    lr: float = key(1e-3, "AdamW's learning rate")


def _size(layers: int, hidden: int, heads: int) -> BertKeys:
    return BertKeys(
        layers=layers,
        hidden=hidden,
        heads=heads,
        seq=512,
        masked=76,
        vocab=30522,
        batch=256,
        dtype="bf16",
        lr=1e-4,
    )


SIZES: Mapping[str, BertKeys] = {
    "tiny": BertKeys(),
    "small": _size(4, 512, 8),
    "base": _size(12, 768, 12),
    "large": _size(24, 1024, 16),
}


def build_bert(name: str, keys: BertKeys) -> ZooProgram:
    """The train step of this BERT.

    Raises:
        OptionsError: if the heads do not divide the hidden width, or more tokens are
            masked than there are.
    """
    if keys.masked > keys.seq:
        raise OptionsError(
            f"masked={keys.masked} of seq={keys.seq} tokens",
            hint="mask fewer tokens; BERT masks 15 in 100",
        )
    stack = checked_stack(keys, causal=False, norm="post")
    all_tokens, masked = (keys.batch, keys.seq), (keys.batch, keys.masked)

    def loss(params: Tree, batch: Tree) -> jax.Array:
        return cross_entropy(logits(params, batch, stack), batch["targets"])

    model = Model(
        init_params=lambda key: init_params(key, keys, stack),
        loss=without_stats(loss),
        make_batch=lambda seed: make_masked(seed, keys),
        batch={
            "tokens": abstract(all_tokens, jnp.int32),
            "segments": abstract(all_tokens, jnp.int32),
            "positions": abstract(masked, jnp.int32),
            "targets": abstract(masked, jnp.int32),
        },
        optimizer=optax.adamw(keys.lr, weight_decay=0.01),
        dtype=keys.dtype,
    )
    return assemble(name, model, dataclasses.asdict(keys))


def logits(params: Tree, batch: Tree, stack: Stack) -> jax.Array:
    """Scores of every token at the masked positions, [b, masked, vocab], f32."""
    x_bsd = embed(params["wte"], batch["tokens"]) + params["wpe"]
    x_bsd = x_bsd + embed(params["wse"], batch["segments"])
    x_bsd = layer_norm(x_bsd.astype(stack.dtype), params["ln"])
    x_bsd = apply_stack(x_bsd, params["h"], stack)
    head = params["head"]
    x_bmd = gelu(dense(pick(x_bsd, batch["positions"]), head["w"], head["b"]))
    x_bmd = layer_norm(x_bmd, head["ln"])
    scores_bmv = dot(x_bmd, params["wte"].astype(stack.dtype), contract=((2,), (1,)))
    scored: jax.Array = scores_bmv.astype(jnp.float32) + head["bias"]
    return scored


def pick(x_bsd: jax.Array, positions_bm: jax.Array) -> jax.Array:
    """Each sequence's rows at its own positions, which are in bounds; [b, m, d]."""
    dims = lax.GatherDimensionNumbers(
        offset_dims=(2,),
        collapsed_slice_dims=(1,),
        start_index_map=(1,),
        operand_batching_dims=(0,),
        start_indices_batching_dims=(0,),
    )
    rows_bmd: jax.Array = lax.gather(
        x_bsd,
        lax.expand_dims(positions_bm, (2,)),
        dims,
        slice_sizes=(1, 1, x_bsd.shape[2]),
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )
    return rows_bmd


def init_params(key: jax.Array, keys: BertKeys, stack: Stack) -> Tree:
    """Parameters in f32; embeddings normal of 0.02."""
    hidden = keys.hidden
    stack_key, token_key, position_key, *rest = jax.random.split(key, 5)
    return {
        "wte": normal(token_key, (keys.vocab, hidden), INIT_STD),
        "wpe": normal(position_key, (keys.seq, hidden), INIT_STD),
        "wse": normal(rest[0], (SEGMENTS, hidden), INIT_STD),
        "ln": init_layer_norm(hidden),
        "h": init_stack(stack_key, stack),
        "head": {
            "w": normal(rest[1], (hidden, hidden), INIT_STD),
            "b": jnp.zeros((hidden,)),
            "ln": init_layer_norm(hidden),
            "bias": jnp.zeros((keys.vocab,)),
        },
    }


def make_masked(seed: int, keys: BertKeys) -> Tree:
    """Random tokens in two segments, some of them masked, and what those were."""
    generator = np.random.default_rng(seed)
    shape = (keys.batch, keys.seq)
    tokens = generator.integers(keys.vocab - 1, size=shape, dtype=np.int32)
    shuffled = generator.permuted(np.tile(np.arange(keys.seq), (keys.batch, 1)), axis=1)
    positions = np.sort(shuffled[:, : keys.masked], axis=1).astype(np.int32)
    targets = np.take_along_axis(tokens, positions, axis=1)
    np.put_along_axis(tokens, positions, keys.vocab - 1, axis=1)
    segments = np.broadcast_to(np.arange(keys.seq) >= keys.seq // 2, shape)
    return {
        "tokens": tokens,
        "segments": segments.astype(np.int32),
        "positions": positions,
        "targets": targets,
    }
