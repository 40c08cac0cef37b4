"""How long one kernel or collective takes, for orders that hide one by others [s]."""

import math
from collections.abc import Sequence

from tepdist.cost.compute import (
    compute_dtype,
    flops,
    is_matmul,
    matmul_flops_per_s,
    memory_s,
)
from tepdist.cost.layouts import CONVOLUTION
from tepdist.cost.placed import Placed
from tepdist.program.graph import Op
from tepdist.sharding import Sharding

# What XLA takes any call of a library for, convolutions among them.
_LIBRARY_S = 10e-6
# XLA's own figures of a network between nodes: seconds to start and for each step of a
# ring and each chunk of a message, bytes of a chunk, and its rate [B/s].
_START_S, _STEP_S, _CHUNK_S = 45e-6, 31e-6, 6e-6
_CHUNK_BYTES = 4 * 2**20
_NETWORK_BYTES_PER_S = 25e9


def kernel_s(op: Op, placed: Placed, bytes_: int) -> float:
    """Time of the kernel that ends in an op [s].

    Args:
        op: Any.
        placed: The program that it is of.
        bytes_: That the kernel reads and writes [B].
    """
    if op.kind == CONVOLUTION:
        return _LIBRARY_S
    device = placed.pricing.cluster.device
    moving_s = float(memory_s(float(bytes_), device))
    if not is_matmul(op.kind):
        return moving_s
    values = placed.program.values
    lies: Sequence[Sharding] = (
        *placed.operands[op.index],
        *(placed.values[value] for value in op.results),
    )
    shards = placed.mesh.size_of({axis for each in lies for axis in each.axes})
    rate = matmul_flops_per_s(device, compute_dtype(op, values))
    return max(moving_s, flops(op, values) / shards / rate)


def hidden_s(
    kind: str, bytes_: float, axes: tuple[str, ...], *, placed: Placed
) -> float:
    """Time of a collective that the compiler tries to hide [s].

    Args:
        kind: As in `Collective.kind`.
        bytes_: Payload [B].
        axes: Mesh axes that it runs over.
        placed: The program that it is of.
    """
    pricing = placed.pricing
    cluster = pricing.cluster
    spans = cluster.spans(placed.mesh, axes)
    size = math.prod(span.size for span in spans)
    inside = math.prod(span.size for span in spans if span.level == cluster.levels[0])
    if inside == size:
        return pricing.collective_s(kind, bytes_, axes)
    sent = bytes_ / size
    step_s = sent / _NETWORK_BYTES_PER_S + _STEP_S
    step_s += math.ceil(sent / _CHUNK_BYTES) * _CHUNK_S
    rounds = 2 if kind == "all_reduce" else 1
    return _START_S + rounds * (size - 1) / inside * step_s
