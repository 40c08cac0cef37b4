"""Time of one collective over levels of links [s].

Each function takes a payload as the plan states it (`Collective.bytes_`) and the
spans of its group, innermost first, and is elementwise: a numpy array of payloads
gives an array of times. A group of one costs nothing, and neither does a payload of
no bytes: the compiler drops such a collective. No cost of starting a kernel and no
overlap with compute is counted here.

A level of n units with latency L and bandwidth W scatters or gathers b bytes by the
better of

    ring   (n - 1) (L + b / (n W))      least traffic, latency grows with n
    tree   ceil(log2 n) L + b / W       pipelined, latency grows with log n

and levels compose from the inside out: after the inner level each device holds 1/n
of the tensor, and only that goes out to the slower links.

Sources:
    Ring: Patarasuk and Yuan, J. Parallel Distrib. Comput. 69 (2009).
    Tree: Sanders, Speck and Traff, Parallel Computing 35 (2009); NCCL's double binary
        trees (2.4) and its logarithmic all-gather and reduce-scatter, PAT (2.23).
    Both, and all-to-all: Thakur, Rabenseifner and Gropp, Int. J. High Perform. Comput.
        Appl. 19 (2005).
    Levels: Cho et al., BlueConnect, MLSys 2019.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from tepdist.cluster.model import Span

FloatOrArray = TypeVar("FloatOrArray", float, np.ndarray)
Spans = tuple[Span, ...]


def reduce_scatter_s(bytes_: FloatOrArray, spans: Spans) -> FloatOrArray:
    """Time of a reduce-scatter; the adding itself is free.

    Args:
        bytes_: Size of the tensor that each device brings [B].
        spans: Group, innermost first.
    """
    total, left = bytes_ * 0.0, bytes_
    for span in spans:
        total = total + _scatter_s(left, span)
        left = left / span.size
    return total * (bytes_ > 0)


def all_gather_s(bytes_: FloatOrArray, spans: Spans) -> FloatOrArray:
    """Time of an all-gather: a reduce-scatter run backwards.

    Args:
        bytes_: Size of the gathered tensor [B].
        spans: Group, innermost first.
    """
    return reduce_scatter_s(bytes_, spans)


def all_reduce_s(bytes_: FloatOrArray, spans: Spans) -> FloatOrArray:
    """Time of an all-reduce: a reduce-scatter, then an all-gather.

    Args:
        bytes_: Size of the tensor on each device [B].
        spans: Group, innermost first.
    """
    return 2.0 * reduce_scatter_s(bytes_, spans)


def all_to_all_s(bytes_: FloatOrArray, spans: Spans) -> FloatOrArray:
    """Time of an all-to-all: one exchange within each level, all data in each.

    A level's exchange is the better of pairwise, ``(n - 1) (L + b / (n W))``, and
    Bruck's, ``ceil(log2 n) (L + b / (2 W))``.

    Args:
        bytes_: Size of the local operand [B].
        spans: Group, innermost first.
    """
    total = bytes_ * 0.0
    for span in spans:
        level = span.level
        others = span.size - 1
        wire_s = bytes_ / level.bytes_per_s
        pairwise_s = others * level.latency_s + wire_s * (others / span.size)
        rounds = others.bit_length()
        bruck_s = rounds * level.latency_s + wire_s * (rounds / 2)
        total = total + _least(pairwise_s, bruck_s)
    return total * (bytes_ > 0)


def collective_permute_s(bytes_: FloatOrArray, spans: Spans) -> FloatOrArray:
    """Time of a permute: every device sends all it has to one other.

    Some pair is taken to be joined by the slowest link of the group.

    Args:
        bytes_: Size of the local operand [B].
        spans: Group, innermost first.
    """
    total = bytes_ * 0.0
    for span in spans:
        if span.size > 1:
            level = span.level
            total = _greatest(total, level.latency_s + bytes_ / level.bytes_per_s)
    return total * (bytes_ > 0)


COLLECTIVES: Mapping[str, Callable[[float, Spans], float]] = MappingProxyType(
    {
        "all_reduce": all_reduce_s,
        "all_gather": all_gather_s,
        "reduce_scatter": reduce_scatter_s,
        "all_to_all": all_to_all_s,
        "collective_permute": collective_permute_s,
    }
)


def collective_s(kind: str, bytes_: float, spans: Spans) -> float:
    """Time of a collective of this kind [s].

    Args:
        kind: A key of `COLLECTIVES`.
        bytes_: Payload as that kind's function takes it [B].
        spans: Group, innermost first.
    """
    return COLLECTIVES[kind](bytes_, spans)


def _scatter_s(bytes_: FloatOrArray, span: Span) -> FloatOrArray:
    """Time to scatter, or gather, b bytes within one level."""
    level = span.level
    others = span.size - 1
    wire_s = bytes_ / level.bytes_per_s
    ring_s = others * level.latency_s + wire_s * (others / span.size)
    # bit_length of n - 1 is ceil(log2 n), and 0 for a group of one.
    tree_s = others.bit_length() * level.latency_s + wire_s
    return _least(ring_s, tree_s)


def _least(first: FloatOrArray, second: FloatOrArray) -> FloatOrArray:
    if isinstance(first, float):
        return min(first, second)
    least: np.ndarray = np.minimum(first, second)
    return least


def _greatest(first: FloatOrArray, second: FloatOrArray) -> FloatOrArray:
    return -_least(-first, -second)
