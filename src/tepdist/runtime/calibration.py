"""Measures the devices at hand: which sizes to time, and the cluster they make.

Sizes start small and grow until one takes `LONG_S` or its part of the time is over;
the least that the fits need is measured whatever the time.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Generic, TypeVar

import jax

from tepdist.cluster.model import Cluster, Device, LinkLevel
from tepdist.cluster.presets import parse_cluster
from tepdist.cost.fitting import (
    TimedCollective,
    TimedKernel,
    TimedProduct,
    fit_level,
    fit_memory,
    fit_products,
)
from tepdist.runtime.devices import preset_of
from tepdist.runtime.timing import (
    BODIES,
    COLUMNS,
    added_member_s,
    combines,
    time_collective,
    time_kernel,
    time_product,
)

Report = Callable[[str, float], None]
Timed = TypeVar("Timed", TimedKernel, TimedCollective, TimedProduct)

LONG_S = 5e-3  # what takes this long tells what larger ones do
LEAST_SIZES = 3
LEAST_FLAT = 2  # edges beside which flat products are timed, at least
KERNEL_ELEMENTS = tuple(2**exponent for exponent in range(8, 30, 2))
EDGES = tuple(2**exponent for exponent in range(5, 15))
# Short side of the flat products beside a square, as a share of its edge.
FLAT = (1 / 32, 1 / 4)
LEAST_EXTENT = 8  # products of fewer are made of other kernels
ROWS = tuple(2**exponent for exponent in range(3, 19, 3))
COMBINED_BYTES = tuple(2**exponent for exponent in range(10, 32))
# Combining saves where an added member takes less than this share of one alone.
MOST_ADDED = 0.5
# Share of the time after which kernels, then collectives, grow no more.
KERNELS_SHARE, COLLECTIVES_SHARE, FIRST_PASS_SHARE = 0.07, 0.28, 0.4
PASSES = 3
# One measurement's arrays take at most this share of a device's memory.
MOST_SHARE = 1 / 64


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was timed, and what the compiler was seen to do.

    Attributes:
        kernels: Elementwise, in order of size.
        collectives: Of all kinds, group sizes and payloads.
        products: Of all dtypes and shapes.
        combines_bytes: As in `Cluster`.
    """

    kernels: tuple[TimedKernel, ...]
    collectives: tuple[TimedCollective, ...]
    products: tuple[TimedProduct, ...]
    combines_bytes: int


class Calibration:
    """One measuring of some devices, all of them at once.

    Everything is timed in three passes, far apart, and the median counts: what else
    runs on a machine comes and goes.
    """

    def __init__(
        self, devices: Sequence[jax.Device], *, time_limit_s: float, report: Report
    ) -> None:
        """Prepares it.

        Args:
            devices: Of one kind.
            time_limit_s: Roughly what it may take [s].
            report: Told what is being timed and the share of the time that is spent.
        """
        self._devices = tuple(devices)
        self._report = report
        self._began = time.monotonic()
        self._time_limit_s = time_limit_s
        self._most_bytes = memory_bytes(devices) * MOST_SHARE

    def run(self, dtypes: Sequence[str]) -> Measured:
        """Times everything.

        Args:
            dtypes: Of products, as JAX names them.
        """
        combines_bytes = self._combines_bytes()
        kernels = list(self._kernels())
        collectives = list(self._collectives())
        products = [each for dtype in dtypes for each in self._products(dtype, dtypes)]
        passes = [
            _Pass(
                [probe.first for probe in kernels],
                [probe.first for probe in collectives],
                [probe.first for probe in products],
            )
        ]
        while len(passes) < PASSES and self._spent < 1:
            passes.append(
                _Pass(
                    [self._again(probe) for probe in kernels],
                    [self._again(probe) for probe in collectives],
                    [self._again(probe) for probe in products],
                )
            )
        return Measured(
            kernels=_medians([each.kernels for each in passes]),
            collectives=_medians([each.collectives for each in passes]),
            products=_medians([each.products for each in passes]),
            combines_bytes=combines_bytes,
        )

    def _again(self, probe: "_Probe[Timed]") -> Timed:
        self._say(f"again: {probe.name}")
        return probe.time()

    def _probe(self, name: str, time_it: Callable[[], Timed]) -> "_Probe[Timed]":
        self._say(name)
        return _Probe(name, time_it, time_it())

    def _kernels(self) -> Iterator["_Probe[TimedKernel]"]:
        for number, elements in enumerate(KERNEL_ELEMENTS):
            probe = self._probe(
                f"kernels of {elements} elements",
                partial(time_kernel, self._devices, elements),
            )
            yield probe
            if number + 1 >= LEAST_SIZES and (
                self._is_long(probe.first.seconds, probe.first.bytes_)
                or self._spent > KERNELS_SHARE
            ):
                return

    def _collectives(self) -> Iterator["_Probe[TimedCollective]"]:
        count = len(self._devices)
        sizes = [size for size in range(2, count + 1) if count % size == 0]
        pairs = list(itertools.product(BODIES, sizes))
        for number, rows in enumerate(ROWS):
            growing = []
            for kind, size in pairs:
                whole = -(-rows // size) * size
                probe = self._probe(
                    f"{kind} among {size}",
                    partial(
                        time_collective, self._devices, kind, size=size, rows=whole
                    ),
                )
                yield probe
                bytes_ = 4.0 * whole * COLUMNS * size
                if not self._is_long(probe.first.seconds, bytes_):
                    growing.append((kind, size))
            pairs = growing
            if number + 1 >= LEAST_SIZES and self._spent > COLLECTIVES_SHARE:
                return

    def _products(
        self, dtype: str, dtypes: Sequence[str]
    ) -> Iterator["_Probe[TimedProduct]"]:
        """Squares until one is long: they tell the rate; then the flat ones beside."""
        share = (dtypes.index(dtype) + 1) / len(dtypes)
        until = COLLECTIVES_SHARE + (FIRST_PASS_SHARE - COLLECTIVES_SHARE) * share
        edges = []
        for edge in EDGES:
            edges.append(edge)
            square = self._product((edge, edge, edge), dtype)
            yield square
            if len(edges) >= LEAST_SIZES and self._is_long(
                square.first.seconds, square.first.bytes_
            ):
                break
        for number, edge in enumerate(edges):
            if number >= LEAST_FLAT and self._spent > until:
                return
            for extents in _flat_shapes(edge):
                yield self._product(extents, dtype)

    def _product(
        self, extents: tuple[int, int, int], dtype: str
    ) -> "_Probe[TimedProduct]":
        return self._probe(
            f"{dtype} products of {' x '.join(map(str, extents))}",
            partial(time_product, self._devices, extents, dtype),
        )

    def _combines_bytes(self) -> int:
        """What is combined, if that saves anything: XLA:CPU waits for each member."""
        devices = self._devices
        if len(devices) == 1:
            return 0
        self._say("what is combined")
        together = itertools.takewhile(partial(combines, devices), COMBINED_BYTES)
        most = max(together, default=0)
        if not most:
            return 0
        alone = time_collective(devices, "all_reduce", size=len(devices), rows=ROWS[0])
        added_s = added_member_s(devices, rows=ROWS[0])
        return most if added_s < MOST_ADDED * alone.seconds else 0

    def _is_long(self, seconds: float, bytes_: float) -> bool:
        """Whether nothing larger needs to be timed."""
        return seconds > LONG_S or bytes_ > self._most_bytes

    @property
    def _spent(self) -> float:
        return (time.monotonic() - self._began) / self._time_limit_s

    def _say(self, what: str) -> None:
        self._report(what, min(self._spent, 1.0))


@dataclass(frozen=True, slots=True)
class _Probe(Generic[Timed]):
    """Something that can be timed again.

    Attributes:
        name: For people.
        time: Times it.
        first: What that gave the first time.
    """

    name: str
    time: Callable[[], Timed]
    first: Timed


@dataclass(frozen=True, slots=True)
class _Pass:
    """Everything timed once, in the order of the probes."""

    kernels: Sequence[TimedKernel]
    collectives: Sequence[TimedCollective]
    products: Sequence[TimedProduct]


def _medians(passes: Sequence[Sequence[Timed]]) -> tuple[Timed, ...]:
    """Of each timed thing the median of the passes."""
    return tuple(
        sorted(each, key=lambda timed: timed.seconds)[(len(each) - 1) // 2]
        for each in zip(*passes, strict=True)
    )


def _flat_shapes(edge: int) -> Iterator[tuple[int, int, int]]:
    """Extents of the flat products beside a square."""
    for short in sorted({max(int(edge * share), LEAST_EXTENT) for share in FLAT}):
        yield from ((short, edge, edge), (edge, short, edge), (edge, edge, short))


def calibrated_cluster(
    devices: Sequence[jax.Device], measured: Measured, *, name: str, source: str
) -> Cluster:
    """The cluster of these devices that fits what was measured on them.

    Args:
        devices: All that took part.
        measured: Of them.
        name: Of the cluster.
        source: Where its measured figures come from.
    """
    base = _base(devices)
    device = fit_memory(base.device, measured.kernels, measured.products)
    device = fit_products(device, measured.products)
    (level,) = base.levels
    figures = ("flops_per_s", "memory_bytes_per_s", "launch_s", level.name)
    facts = {"memory_bytes": "As the system says."}
    return replace(
        base,
        name=name,
        device=device,
        levels=(fit_level(level, measured.collectives),),
        combines_bytes=measured.combines_bytes,
        sources=MappingProxyType({**dict.fromkeys(figures, source), **facts}),
    )


def memory_bytes(devices: Sequence[jax.Device]) -> int:
    """Memory of one device, virtual ones sharing the host's evenly [B]."""
    if devices[0].platform == "cpu":
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total // len(devices)
    stats: Mapping[str, int] = devices[0].memory_stats() or {}
    return stats.get("bytes_limit", 0)


def _base(devices: Sequence[jax.Device]) -> Cluster:
    """What is known of the devices without measuring; the rest is to be replaced."""
    preset = preset_of(devices[0])
    size, bytes_ = len(devices), memory_bytes(devices)
    if preset is not None:
        known = parse_cluster(f"1x{preset}")
        level = replace(known.levels[0], size=size)
        # What a runtime hands out is less its own reserve already.
        device = replace(known.device, memory_bytes=bytes_, reserved_bytes=0)
        return replace(known, device=device, levels=(level,))
    device = Device(
        kind=devices[0].device_kind.lower().replace(" ", "-"),
        platform=devices[0].platform,
        flops_per_s=MappingProxyType({"f32": 1.0}),
        matmul_efficiency=1.0,
        memory_bytes=bytes_,
        reserved_bytes=0,
        memory_bytes_per_s=1.0,
        launch_s=0.0,
    )
    level = LinkLevel("links", size, latency_s=0.0, bytes_per_s=1.0)
    return Cluster("", device, (level,), device.platform != "cpu", MappingProxyType({}))
