"""Figures of a cluster from measured times; pure, and exact on times that it predicts.

Errors are relative throughout: a small kernel's time counts as much as a large one's.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from tepdist.cluster.model import Device, LinkLevel, MeasuredCollective, Span, Times
from tepdist.cost.collectives import COLLECTIVES
from tepdist.cost.compute import product_s
from tepdist.cost.elementwise import curve_s

HALF_EXTENTS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
NUM_RATES = 60
NUM_PACKING_RATES = 16
# Times the best rate reached: what a product of any size may run at, at most. Squares
# were timed until one took long, so that it cannot be much more.
MOST_ABOVE = 1.5
SHORTEST_S = 1e-12  # stands for a time too short to be seen


@dataclass(frozen=True, slots=True)
class TimedKernel:
    """An elementwise kernel that took so long on each of all devices at once.

    Attributes:
        bytes_: Read and written by one device [B].
        seconds: Of one kernel [s].
    """

    bytes_: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TimedProduct:
    """A matrix product ``[rows, contracted] @ [contracted, columns]`` on each device.

    Attributes:
        dtype: Of operands and result, as MLIR names it.
        extents: Rows, columns, contracted elements.
        bytes_: Read and written by one device [B].
        seconds: Of one product [s].
    """

    dtype: str
    extents: tuple[int, int, int]
    bytes_: float
    seconds: float

    @property
    def flops(self) -> float:
        return 2.0 * math.prod(self.extents)


@dataclass(frozen=True, slots=True)
class TimedCollective:
    """A collective of all devices in groups of one size.

    Attributes:
        kind: As in `Collective.kind`.
        size: Devices of each group.
        bytes_: Payload as a plan counts it [B].
        seconds: Of one call [s].
    """

    kind: str
    size: int
    bytes_: float
    seconds: float


def fit_memory(
    device: Device, kernels: Sequence[TimedKernel], products: Sequence[TimedProduct]
) -> Device:
    """The device with the launch time and the memory times of these.

    A timed kernel has arrays of its own, which the runtime hands over; what that takes
    is left out, for it is the same in every plan. A tiny product has none, and its
    time is that of a launch.

    Args:
        device: What is known of it otherwise.
        kernels: Of two sizes or more.
        products: Of whatever shapes.
    """
    times = curve((kernel.bytes_, kernel.seconds) for kernel in kernels)
    (_, least_s), (most, most_s) = times[0], times[-1]
    launch_s = min([least_s, *(product.seconds for product in products)])
    return replace(
        device,
        launch_s=launch_s,
        memory_bytes_per_s=most / max(most_s - least_s, SHORTEST_S),
        memory_times=tuple((size, s - least_s + launch_s) for size, s in times),
    )


def curve(timed: Iterable[tuple[float, float]]) -> Times:
    """A curve through these points (bytes, seconds).

    What takes longer than more bytes do was disturbed: it is taken down to theirs.

    >>> curve([(1, 3.0), (4, 5.0), (2, 2.0)])
    ((1.0, 2.0), (2.0, 2.0), (4.0, 5.0))
    """
    sizes, seconds = zip(*sorted(timed, reverse=True), strict=True)
    lowered = itertools.accumulate(seconds, min)
    pairs = zip(sizes, lowered, strict=True)
    return tuple((float(size), float(time_s)) for size, time_s in pairs)[::-1]


def fit_products(device: Device, products: Sequence[TimedProduct]) -> Device:
    """The device with the product rates that fit best, on its launch and memory times.

    The rates are those reached: `matmul_efficiency` becomes 1. One `half_extent` and
    one `packing_bytes_per_s` have to do for all dtypes.

    Args:
        device: As `fit_memory` gives it.
        products: Of one dtype or several.
    """
    device = replace(device, matmul_efficiency=1.0)
    trials = (
        replace(device, half_extent=half_extent, packing_bytes_per_s=packing)
        for half_extent in HALF_EXTENTS
        for packing in (None, *_packing_rates(device, products))
    )
    fitted = [_with_rates(trial, products) for trial in trials]
    return min(fitted, key=lambda found: found[1])[0]


def timed_product_s(device: Device, product: TimedProduct) -> float:
    """Time that a timed product is reckoned to take [s]."""
    return device.launch_s + product_s(
        product.flops,
        product.bytes_,
        extents=[float(extent) for extent in product.extents],
        dtype=product.dtype,
        device=device,
    )


def _packing_rates(device: Device, products: Sequence[TimedProduct]) -> list[float]:
    """Rates to try: from the slowest that any product allows to the memory's own."""
    slowest = max(product.bytes_ / product.seconds for product in products)
    if slowest >= device.memory_bytes_per_s:
        return []
    rates = np.geomspace(slowest, device.memory_bytes_per_s, NUM_PACKING_RATES)
    return [float(rate) for rate in rates]


def _with_rates(
    device: Device, products: Sequence[TimedProduct]
) -> tuple[Device, float]:
    """The device with the best rate for each dtype, and the squared error of all."""
    total, rates = 0.0, dict(device.flops_per_s)
    for dtype in sorted({product.dtype for product in products}):
        own = [product for product in products if product.dtype == dtype]
        fastest = max(product.flops / product.seconds for product in own)
        # No rate below the best that was reached, all else included, can be right.
        tried = [
            (_squared_error(device, own, rate), rate)
            for rate in np.geomspace(fastest, MOST_ABOVE * fastest, NUM_RATES).tolist()
        ]
        error, rates[dtype] = min(tried)
        total += error
    return replace(device, flops_per_s=MappingProxyType(rates)), total


def _squared_error(
    device: Device, products: Sequence[TimedProduct], rate: float
) -> float:
    rates = {"f32": rate} | {product.dtype: rate for product in products}
    trial = replace(device, flops_per_s=rates)
    return sum(
        math.log(timed_product_s(trial, product) / product.seconds) ** 2
        for product in products
    )


def fit_level(level: LinkLevel, timed: Sequence[TimedCollective]) -> LinkLevel:
    """The level with these measured collectives, and the formulas' figures from them.

    What takes longer than among more devices was disturbed, and is taken down to that.

    Args:
        level: Its name and size.
        timed: Of two payloads or more for each kind and size.
    """
    found: list[MeasuredCollective] = []
    for kind in sorted({each.kind for each in timed}):
        larger: Times | None = None
        sizes = sorted({each.size for each in timed if each.kind == kind})
        for size in reversed(sizes):
            own = [each for each in timed if (each.kind, each.size) == (kind, size)]
            times = curve((each.bytes_, each.seconds) for each in own)
            if larger is not None:
                times = tuple((b, min(s, curve_s(larger, b))) for b, s in times)
            larger = times
            found.append(MeasuredCollective(kind, size, times))
    if not found:
        return level
    found.sort(key=lambda each: (each.kind, each.size))
    return replace(
        level,
        latency_s=float(np.median([_latency_s(each) for each in found])),
        bytes_per_s=float(np.median([_bandwidth(each) for each in found])),
        measured=tuple(found),
    )


def _latency_s(each: MeasuredCollective) -> float:
    """Latency of a message with which the formulas give the shortest time [s]."""
    return each.times[0][1] / _formula(
        each, LinkLevel("unit", each.size, 1.0, math.inf), 1.0
    )


def _bandwidth(each: MeasuredCollective) -> float:
    """Bandwidth with which the formulas give what more bytes took longer [B/s]."""
    (least, least_s), (most, most_s) = each.times[0], each.times[-1]
    longer_s = max(most_s - least_s, SHORTEST_S)
    return (
        _formula(each, LinkLevel("unit", each.size, 0.0, 1.0), most - least) / longer_s
    )


def _formula(each: MeasuredCollective, level: LinkLevel, payload: float) -> float:
    return float(COLLECTIVES[each.kind](payload, (Span(level, each.size),)))


def median_error(pairs: Iterable[tuple[float, float]]) -> float:
    """Median of how far reckoned times are off measured ones, as a share.

    >>> median_error([(1.1, 1.0), (2.0, 2.0), (3.0, 4.0)])
    0.10000000000000009
    """
    return float(np.median([abs(found / seen - 1) for found, seen in pairs]))
