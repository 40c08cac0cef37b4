"""Peak memory of one device of a stage, as the platform's compiler allocates it [B].

Arguments and results that take no argument's buffer exist throughout. The rest lives
from the kernel that makes it to the last that reads it, in the order in which the
compiler runs them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tepdist.analysis.hiding import hide_latency, start_early
from tepdist.analysis.schedule import (
    Kernels,
    breadth_first,
    least_memory,
    peak_bytes,
)
from tepdist.analysis.units import combine, guard, merge, order_units
from tepdist.cluster.model import Device
from tepdist.cost.fusion import BEFORE_HOPPER
from tepdist.cost.kernel_graph import Graph
from tepdist.cost.kernels import device_kernels
from tepdist.cost.placed import Placed

# XLA combines collectives up to this size.
COMBINED_BYTES = 30 * 2**20


@dataclass(frozen=True, slots=True)
class Allocator:
    """How a platform's compiler orders kernels and lays out buffers.

    Attributes:
        order: Order in which kernels run.
        alignment: Every buffer is a multiple of it [B].
        guards: Whether it copies arguments that may be written over too soon, before
            it knows the order.
    """

    order: Callable[[Kernels], list[int]]
    alignment: int
    guards: bool


_CPU = Allocator(breadth_first, 64, guards=True)
# XLA:GPU hides collectives from Hopper on; before, it starts them as soon as it can.
_EARLY_GPU = Allocator(start_early, 256, guards=False)
_HIDING_GPU = Allocator(hide_latency, 256, guards=False)
_TPU = Allocator(least_memory, 512, guards=False)


def allocator_of(device: Device) -> Allocator:
    """What a device's compiler does."""
    if device.platform == "cpu":
        return _CPU
    if device.platform == "tpu":
        return _TPU
    return _EARLY_GPU if device.kind in BEFORE_HOPPER else _HIDING_GPU


def footprint_bytes(placed: Placed, allocator: Allocator) -> int:
    """Peak memory of one device [B].

    Args:
        placed: The program with the sharding of everything.
        allocator: Of the platform.
    """

    def peak(graph: Graph) -> int:
        kernels, unit = merge(graph.kernels, graph.siblings)
        unit = combine(kernels, unit, graph.keys, limit_bytes=COMBINED_BYTES)
        if allocator.guards:
            kernels, unit = guard(kernels, unit, graph.updates)
        order = order_units(kernels, unit, allocator.order)
        return peak_bytes(kernels, order, reuses=True)

    graph = device_kernels(placed, peak)
    kernels = graph.kernels
    given = sum(
        bytes_
        for bytes_, is_given in zip(kernels.bytes_, kernels.is_given, strict=True)
        if is_given
    )
    return given + peak(graph)
