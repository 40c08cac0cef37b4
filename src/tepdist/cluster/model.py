"""What a cluster is, as data: devices and the levels of links between them.

SI units throughout: bytes, seconds, flops per second. This file knows no presets
and reads no files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import mul
from typing import TypeAlias

from tepdist.errors import ClusterError
from tepdist.sharding import Mesh

# Points of a curve, (bytes, seconds): both grow. Between points it is straight; before
# the first it is flat, beyond the last it goes on at the last one's rate.
Times: TypeAlias = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator (or one virtual CPU device).

    Attributes:
        kind: Name of the preset or of the hardware, e.g. ``a100-80g``.
        platform: ``cpu``, ``gpu`` or ``tpu``: which compiler will compile for it.
        flops_per_s: Dense matrix-product peak by dtype name (``f32``, ``bf16``...);
            f32 is always there.
        matmul_efficiency: Share of that peak that large products reach.
        memory_bytes: Total device memory.
        reserved_bytes: Kept back for runtime, collectives' buffers, fragmentation.
        memory_bytes_per_s: Device memory bandwidth.
        launch_s: Time to start one kernel.
        half_extent: Rows, columns or contracted elements of a matrix product at which
            it runs at half its rate for want of more; 0 if their number is all one.
        packing_bytes_per_s: Rate at which a matrix product's tensors are moved, where
            that takes its own time before the multiplying; None where both go on at
            once at the memory's rate.
        memory_times: Time of one elementwise kernel by the bytes it moves, launch
            included, where that was measured; else `launch_s` and
            `memory_bytes_per_s` tell it.
    """

    kind: str
    platform: str
    flops_per_s: Mapping[str, float]
    matmul_efficiency: float
    memory_bytes: int
    reserved_bytes: int
    memory_bytes_per_s: float
    launch_s: float
    half_extent: float = 0.0
    packing_bytes_per_s: float | None = None
    memory_times: Times = ()

    def __post_init__(self) -> None:
        if "f32" not in self.flops_per_s:
            raise ClusterError(
                f"{self.kind} has no flops_per_s for f32",
                hint="it stands for every dtype that has no rate of its own",
            )
        if not 0 < self.matmul_efficiency <= 1:
            raise ClusterError(
                f"matmul_efficiency of {self.kind} is {self.matmul_efficiency}",
                hint="it is a share of the peak: above 0, at most 1",
            )
        if self.reserved_bytes >= self.memory_bytes:
            raise ClusterError(
                f"{self.kind} reserves {self.reserved_bytes} bytes of "
                f"{self.memory_bytes}",
                hint="leave some memory for programs",
            )
        _check_times(self.memory_times, f"memory_times of {self.kind}")

    @property
    def usable_bytes(self) -> int:
        return self.memory_bytes - self.reserved_bytes


def _check_times(times: Times, what: str) -> None:
    sizes, seconds = [size for size, _ in times], [time_s for _, time_s in times]
    if any(size <= 0 for size in sizes) or any(time_s <= 0 for time_s in seconds):
        raise ClusterError(
            f"{what} are {times}", hint="bytes and seconds are more than zero"
        )
    if sorted(set(sizes)) != sizes or sorted(seconds) != seconds:
        raise ClusterError(
            f"{what} are {times}", hint="more bytes come later, and take no less time"
        )


COLLECTIVE_KINDS = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "collective_permute",
)


@dataclass(frozen=True, slots=True)
class MeasuredCollective:
    """Times of a collective as measured within one link level.

    Attributes:
        kind: One of `COLLECTIVE_KINDS`.
        size: Devices of each group, all groups running at once.
        times: By payload as a plan counts it; never empty.
    """

    kind: str
    size: int
    times: Times

    def __post_init__(self) -> None:
        if self.kind not in COLLECTIVE_KINDS:
            raise ClusterError(
                f"there is no collective of kind {self.kind!r}",
                hint=f"one of {', '.join(COLLECTIVE_KINDS)}",
            )
        if self.size < 2:
            raise ClusterError(
                f"{self.kind} among {self.size}",
                hint="a collective joins two devices or more",
            )
        if not self.times:
            raise ClusterError(
                f"{self.kind} among {self.size} has no times",
                hint="give one or more pairs of bytes and seconds",
            )
        _check_times(self.times, f"times of {self.kind} among {self.size}")


@dataclass(frozen=True, slots=True)
class LinkLevel:
    """One level of the network: what joins `size` units of the level below.

    Attributes:
        name: e.g. ``nvlink``, ``infiniband``.
        size: Units of the level below (devices, at the innermost) that it joins.
        latency_s: Time of one message of no bytes between neighbours.
        bytes_per_s: Bandwidth out of one *device*, one direction, with every device
            of the group sending at once.
        start_s: Time of any collective before its first message.
        measured: Collectives whose times are measured, not reckoned from the above.
    """

    name: str
    size: int
    latency_s: float
    bytes_per_s: float
    start_s: float = 0.0
    measured: tuple[MeasuredCollective, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ClusterError(
                f"link level {self.name!r} has size {self.size}",
                hint="it joins at least one unit of the level below",
            )
        taken = [(each.kind, each.size) for each in self.measured]
        twice = [key for key in taken if taken.count(key) > 1]
        if twice:
            raise ClusterError(
                "{} among {} is measured twice".format(*twice[0]),
                hint=f"keep one of them at link level {self.name!r}",
            )


@dataclass(frozen=True, slots=True)
class Cluster:
    """Devices of one kind, joined by levels of links.

    Attributes:
        name: As the user wrote it or the file says.
        device: What each device is.
        levels: Innermost first; the product of their sizes is the device count.
        scatters_sums: Whether plans reduce-scatter where that pays, or only where ZeRO
            is asked for. Off for CPUs by default: each collective takes long to start
            there, and in place of one all-reduce there would be two.
        sources: Figure name to where it comes from.
        combines_bytes: All-reduces that do not wait for each other become one of at
            most so many bytes; 0 if each is priced alone.
    """

    name: str
    device: Device
    levels: tuple[LinkLevel, ...]
    scatters_sums: bool
    sources: Mapping[str, str]
    combines_bytes: int = 0

    @property
    def num_devices(self) -> int:
        return math.prod(level.size for level in self.levels)

    def spans(self, mesh: Mesh, axes: tuple[str, ...]) -> tuple["Span", ...]:
        """The link levels that a collective over these mesh axes runs on.

        Device i of the mesh is device i of the cluster. Neighbouring axes count as
        one. What does not line up with the levels (groups of 3 on nodes of 4) is
        put whole on the outermost level that a group touches.

        Returns:
            Spans of more than one unit, innermost first, whose sizes multiply to the
            group's size.

        Raises:
            ClusterError: if the mesh has more devices than the cluster.
        """
        if mesh.num_devices > self.num_devices:
            raise ClusterError(
                f"mesh {mesh} has {mesh.num_devices} devices",
                where=f"cluster {self.name} of {self.num_devices}",
                hint="use a smaller mesh or a larger cluster",
            )
        return _spans(self.levels, mesh, axes)


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a collective's group that lies on one link level."""

    level: LinkLevel
    size: int


@lru_cache(maxsize=1024)  # a search asks for the same few groups over and over
def _spans(
    levels: tuple[LinkLevel, ...], mesh: Mesh, axes: tuple[str, ...]
) -> tuple[Span, ...]:
    sizes = [1] * len(levels)
    for run in _runs(mesh, axes):
        for index, part in enumerate(_parts(levels, mesh, run)):
            sizes[index] *= part
    return tuple(
        Span(level, size) for level, size in zip(levels, sizes, strict=True) if size > 1
    )


def _runs(mesh: Mesh, axes: tuple[str, ...]) -> list[tuple[int, int]]:
    """(stride, size) of these axes, neighbours joined: ``x, y`` may act as one axis."""
    runs: list[tuple[int, int]] = []
    for stride, size in sorted(
        (mesh.stride(name), mesh.axis_size(name)) for name in axes
    ):
        if runs and math.prod(runs[-1]) == stride:
            below, inner = runs.pop()
            runs.append((below, inner * size))
        else:
            runs.append((stride, size))
    return runs


def _parts(
    levels: tuple[LinkLevel, ...], mesh: Mesh, run: tuple[int, int]
) -> tuple[int, ...]:
    """The part of a run's size that lies on each level, as far as it reaches."""
    stride, size = run
    # Devices in one unit of each level.
    units = tuple(accumulate((level.size for level in levels), mul))
    outermost = next(
        index
        for index, unit in enumerate(units)
        if unit % (stride * size) == 0 or unit >= mesh.num_devices
    )
    within = units[:outermost]
    # Devices of one group that lie in one unit of each level.
    counts = tuple(max(1, unit // stride) for unit in within)
    lines_up = all(
        (unit % stride == 0 or unit <= stride) and size % count == 0
        for unit, count in zip(within, counts, strict=True)
    )
    if not lines_up:
        counts = (1,) * outermost
    counts = (*counts, size)
    return tuple(
        count // below for count, below in zip(counts, (1, *counts), strict=False)
    )
