"""GPT: a decoder after GPT-2, trained with AdamW in mixed precision.

Learned positions, pre-norm layers, tanh gelu, cross entropy over the next token.
Sizes after Brown et al., arXiv 2005.14165, table 2.1 and Zheng et al. (Alpa), arXiv
2201.12023, table 5; default batches are ours.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tepdist.errors import OptionsError
from tepdist.zoo.blocks import (
    INIT_STD,
    Stack,
    apply_stack,
    dot,
    embed,
    init_layer_norm,
    init_stack,
    layer_norm,
    normal,
)
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

BATCH_KEYS = ("tokens", "targets")


@dataclass(frozen=True, slots=True)
class GptKeys:
    """Keys of ``zoo:gpt``."""

    layers: int = key(2, "transformer layers")
    hidden: int = key(64, "width of the residual stream")
    heads: int = key(4, "attention heads; divides hidden")
    seq: int = key(32, "tokens per sequence")
    vocab: int = key(256, "vocabulary")
    batch: int = key(8, "sequences per step")
    dtype: str = key("f32", "compute dtype; state is f32", tuple(DTYPES))
    tied: bool = key(True, "output head is the embedding, as in GPT-2")  # noqa: FBT003
    scan: bool = key(False, "layers as one loop over stacked ones")  # noqa: FBT003
    remat: str = key("none", "what the backward pass recomputes", ("none", "full"))
    lr: float = key(1e-3, "AdamW's learning rate")


def _size(shape: tuple[int, int, int], **keys: Any) -> GptKeys:
    layers, hidden, heads = shape
    common: dict[str, Any] = {"seq": 1024, "vocab": 51200, "dtype": "bf16", "lr": 3e-4}
    chosen = common | keys
    return GptKeys(layers=layers, hidden=hidden, heads=heads, **chosen)


SIZES: Mapping[str, GptKeys] = {
    "tiny": GptKeys(),
    "117m": _size((12, 768, 12), vocab=50304, batch=32),
    "345m": _size((24, 1024, 16), vocab=50304, batch=32),
    "760m": _size((24, 1536, 16), batch=16),
    "1.3b": _size((24, 2048, 32), batch=2, remat="full"),
    "2.6b": _size((32, 2560, 32), batch=8, remat="full"),
    "6.7b": _size((32, 4096, 32), batch=8, remat="full"),
    "15b": _size((48, 5120, 40), batch=16, remat="full"),
    "39b": _size((48, 8192, 64), batch=16, remat="full"),
    "76b": _size((60, 10240, 80), batch=32, remat="full"),
    "175b": _size((96, 12288, 96), seq=2048, batch=64, remat="full"),
}


def build_gpt(name: str, keys: GptKeys) -> ZooProgram:
    """The train step of this GPT.

    Raises:
        OptionsError: if the heads do not divide the hidden width.
    """
    stack = checked_stack(keys, causal=True, norm="pre")
    shape = (keys.batch, keys.seq)

    def loss(params: Tree, batch: Tree) -> jax.Array:
        return cross_entropy(logits(params, batch["tokens"], stack), batch["targets"])

    model = Model(
        init_params=lambda key: init_params(key, keys, stack),
        loss=without_stats(loss),
        make_batch=lambda seed: make_tokens(seed, shape, keys.vocab),
        batch={name: abstract(shape, jnp.int32) for name in BATCH_KEYS},
        optimizer=optax.adamw(keys.lr, b2=0.95, weight_decay=0.1),
        dtype=keys.dtype,
    )
    return assemble(name, model, dataclasses.asdict(keys))


def checked_stack(keys: Any, *, causal: bool, norm: str) -> Stack:
    """The layers that these keys ask for.

    Raises:
        OptionsError: if the heads do not divide the hidden width.
    """
    if keys.hidden % keys.heads:
        raise OptionsError(
            f"hidden={keys.hidden} is not divided by heads={keys.heads}",
            hint="choose heads that divide hidden",
        )
    return Stack(
        layers=keys.layers,
        hidden=keys.hidden,
        inner=4 * keys.hidden,
        heads=keys.heads,
        dtype=DTYPES[keys.dtype],
        causal=causal,
        norm=norm,
        scan=keys.scan,
        remat=keys.remat,
    )


def init_params(key: jax.Array, keys: GptKeys, stack: Stack) -> Tree:
    """Parameters in f32; embeddings normal of 0.02."""
    stack_key, token_key, position_key, head_key = jax.random.split(key, 4)
    params = {
        "wte": normal(token_key, (keys.vocab, keys.hidden), INIT_STD),
        "wpe": normal(position_key, (keys.seq, keys.hidden), INIT_STD),
        "h": init_stack(stack_key, stack),
        "ln_f": init_layer_norm(keys.hidden),
    }
    if not keys.tied:
        params["head"] = normal(head_key, (keys.vocab, keys.hidden), INIT_STD)
    return params


def logits(params: Tree, tokens_bs: jax.Array, stack: Stack) -> jax.Array:
    """Scores of every next token; [b, s] to [b, s, vocab], f32."""
    x_bsd = embed(params["wte"], tokens_bs) + params["wpe"]
    x_bsd = apply_stack(x_bsd.astype(stack.dtype), params["h"], stack)
    x_bsd = layer_norm(x_bsd, params["ln_f"])
    head_vd = params.get("head", params["wte"]).astype(stack.dtype)
    # Widened after the product: a wide product would make its backward pass widen
    # the activations and the table too.
    return dot(x_bsd, head_vd, contract=((2,), (1,))).astype(jnp.float32)


def make_tokens(seed: int, shape: tuple[int, int], vocab: int) -> Tree:
    """Random tokens and what follows each."""
    num_sequences, seq = shape
    generator = np.random.default_rng(seed)
    text = generator.integers(vocab, size=(num_sequences, seq + 1), dtype=np.int32)
    return {"tokens": text[:, :-1], "targets": text[:, 1:]}
