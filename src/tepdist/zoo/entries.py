"""The built-in programs: their names, and building one from its spec."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tepdist.zoo.bert import SIZES as BERT_SIZES
from tepdist.zoo.bert import BertKeys, build_bert
from tepdist.zoo.gpt import SIZES as GPT_SIZES
from tepdist.zoo.gpt import GptKeys, build_gpt
from tepdist.zoo.keys import KeyRow, key_rows, parse_spec, settle, unknown
from tepdist.zoo.llama import SIZES as LLAMA_SIZES
from tepdist.zoo.llama import LlamaKeys, build_llama
from tepdist.zoo.mlp import MlpKeys, build_mlp
from tepdist.zoo.moe import SIZES as MOE_SIZES
from tepdist.zoo.moe import MoeKeys, MoeLayerKeys, build_moe, build_moe_layer
from tepdist.zoo.program import ZooProgram
from tepdist.zoo.resnet import SIZES as RESNET_SIZES
from tepdist.zoo.resnet import ResnetKeys, build_resnet
from tepdist.zoo.transformer import TransformerKeys, build_transformer
from tepdist.zoo.unet import SIZES as UNET_SIZES
from tepdist.zoo.unet import UnetKeys, build_unet
from tepdist.zoo.vgg import SIZES as VGG_SIZES
from tepdist.zoo.vgg import VggKeys, build_vgg


@dataclass(frozen=True, slots=True)
class Entry:
    """One family of built-in programs.

    Attributes:
        text: What it is, in a line.
        defaults: Keys of the entry named without a size.
        sizes: Name of a size to its keys.
        make: ``(name, keys) -> ZooProgram``.
    """

    text: str
    defaults: Any
    sizes: Mapping[str, Any]
    make: Callable[[str, Any], ZooProgram]


ENTRIES: Mapping[str, Entry] = {
    "bert": Entry(
        "BERT encoder, masked language model, AdamW", BertKeys(), BERT_SIZES, build_bert
    ),
    "gpt": Entry(
        "GPT decoder, next-token loss, AdamW", GptKeys(), GPT_SIZES, build_gpt
    ),
    "llama": Entry(
        "Llama 3 decoder, next-token loss, AdamW", LlamaKeys(), LLAMA_SIZES, build_llama
    ),
    "mlp": Entry("dense layers, squared error, Adam", MlpKeys(), {}, build_mlp),
    "moe": Entry(
        "GPT with a GShard mixture of experts in every second layer, AdamW",
        MoeKeys(),
        MOE_SIZES,
        build_moe,
    ),
    "moe_layer": Entry(
        "one GShard mixture of experts alone, squared error, Adam",
        MoeLayerKeys(),
        {},
        build_moe_layer,
    ),
    "resnet": Entry(
        "ResNet and wide ResNet, image labels, SGD with momentum",
        ResnetKeys(),
        RESNET_SIZES,
        build_resnet,
    ),
    "transformer": Entry(
        "transformer layers on hidden states, squared error, Adam",
        TransformerKeys(),
        {},
        build_transformer,
    ),
    "unet": Entry(
        "U-Net, a label for every pixel, SGD with momentum",
        UnetKeys(),
        UNET_SIZES,
        build_unet,
    ),
    "vgg": Entry(
        "VGG, image labels, SGD with momentum", VggKeys(), VGG_SIZES, build_vgg
    ),
}


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One family, for people.

    Attributes:
        name: As in ``zoo:NAME``.
        text: What it is.
        keys: What may be set.
        sizes: Size name to the keys it sets and their values.
    """

    name: str
    text: str
    keys: tuple[KeyRow, ...]
    sizes: Mapping[str, Mapping[str, object]]


def build(spec: str) -> ZooProgram:
    """The built-in program of this name, e.g. ``gpt:tiny:batch=4``.

    Nothing is materialised: any size can be built anywhere.

    Raises:
        OptionsError: for an unknown name, size or key, or a value it cannot take.
    """
    parts = parse_spec(spec)
    full_name = spec.removeprefix("zoo:")
    where = f"zoo:{full_name}"
    entry = ENTRIES.get(parts.name)
    if entry is None:
        raise unknown("program", parts.name, tuple(ENTRIES), where=where)
    keys = entry.defaults
    if parts.size is not None:
        if parts.size not in entry.sizes:
            raise unknown("size", parts.size, tuple(entry.sizes), where=where)
        keys = entry.sizes[parts.size]
    return entry.make(full_name, settle(keys, parts.settings, where=where))


def catalogue() -> tuple[EntryRow, ...]:
    """Everything that `build` knows."""
    return tuple(
        EntryRow(
            name=name,
            text=entry.text,
            keys=key_rows(type(entry.defaults)),
            sizes={
                size: {
                    row.name: getattr(keys, row.name) for row in key_rows(type(keys))
                }
                for size, keys in entry.sizes.items()
            },
        )
        for name, entry in ENTRIES.items()
    )
