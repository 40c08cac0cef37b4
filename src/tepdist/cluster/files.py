"""Clusters as TOML files and as plain dicts, both ways.

The form, all keys required unless said otherwise::

    name = "lab"                    # optional: else the file's stem
    scatters_sums = true            # optional: else true unless the platform is cpu
    combines_bytes = 31_457_280     # optional: else 0; see `Cluster`

    [device]
    kind = "a100-80g"
    platform = "gpu"                # cpu, gpu or tpu
    matmul_efficiency = 0.8         # above 0, at most 1
    memory_bytes = 80_000_000_000
    reserved_bytes = 4_000_000_000
    memory_bytes_per_s = 2.039e12
    launch_s = 3e-6
    half_extent = 40.0              # optional, with the next three; see `Device`
    packing_bytes_per_s = 1e12
    memory_times = [[4096, 4e-6], [16_777_216, 2e-5]]   # pairs of bytes and seconds

    [device.flops_per_s]            # by MLIR element type; f32 is required
    f32 = 156e12
    bf16 = 312e12

    [[levels]]                      # innermost first; sizes multiply to the devices
    name = "nvlink3"
    size = 8
    latency_s = 3.4e-6
    bytes_per_s = 220e9             # out of one device, one direction
    start_s = 30e-6                 # optional: else 0

    [[levels.measured]]             # optional: what the above does not reckon
    kind = "all_to_all"
    size = 4
    times = [[4096, 2e-5], [16_777_216, 1.2e-4]]

    [sources]                       # optional: where each figure comes from
    nvlink3 = "measured"
"""

import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

from tepdist.cluster.model import Cluster, Device, LinkLevel, MeasuredCollective, Times
from tepdist.errors import ClusterError, located

PLATFORMS = ("cpu", "gpu", "tpu")
_CLUSTER_KEYS = (
    "name",
    "scatters_sums",
    "combines_bytes",
    "device",
    "levels",
    "sources",
)
_DEVICE_KEYS = (
    "kind",
    "platform",
    "flops_per_s",
    "matmul_efficiency",
    "memory_bytes",
    "reserved_bytes",
    "memory_bytes_per_s",
    "launch_s",
    "half_extent",
    "packing_bytes_per_s",
    "memory_times",
)
_LEVEL_KEYS = ("name", "size", "latency_s", "bytes_per_s", "start_s", "measured")
_MEASURED_KEYS = ("kind", "size", "times")


def read_cluster_file(path: Path) -> Cluster:
    """The cluster that a TOML file describes.

    Raises:
        ClusterError: if the file cannot be read or is not of the form above.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ClusterError(
            f"cannot read the cluster file: {error.strerror}",
            where=str(path),
            hint="give a TOML file's path, or a preset such as cpu:8 or 8xh100",
        ) from None
    document = parse_toml(data, str(path))
    return cluster_from_dict({"name": path.stem, **document}, where=str(path))


def cluster_from_dict(
    document: Mapping[str, object], *, where: str = "cluster"
) -> Cluster:
    """The cluster that a document of the form above describes.

    Args:
        document: As `cluster_to_dict` or a TOML reader returns it.
        where: Named in errors.

    Raises:
        ClusterError: naming the first key that is missing, unknown or unfit.
    """
    with located(where):
        return _cluster(_Table(document, where))


def _cluster(root: "_Table") -> Cluster:
    root.allow(_CLUSTER_KEYS)
    device = _device(root.table("device"))
    levels = tuple(_level(table) for table in root.tables("levels"))
    has_sources = "sources" in root.entries
    sources = root.table("sources") if has_sources else _Table({}, root.where)
    return Cluster(
        name=root.text("name"),
        device=device,
        levels=levels,
        scatters_sums=root.flag("scatters_sums", default=device.platform != "cpu"),
        sources=MappingProxyType({key: sources.text(key) for key in sources.entries}),
        combines_bytes=root.whole("combines_bytes", default=0),
    )


def cluster_to_dict(cluster: Cluster) -> dict[str, object]:
    """Plain data that `cluster_from_dict` reads back as an equal cluster.

    What a cluster has by default is left out.
    """
    return {
        **_stated(cluster),
        "device": {
            **_stated(cluster.device),
            "flops_per_s": dict(cluster.device.flops_per_s),
        },
        "levels": [
            {**_stated(level), "measured": [_stated(each) for each in level.measured]}
            if level.measured
            else _stated(level)
            for level in cluster.levels
        ],
        "sources": dict(cluster.sources),
    }


def _stated(
    record: "Cluster | Device | LinkLevel | MeasuredCollective",
) -> dict[str, object]:
    """Fields that differ from their defaults, in order."""
    entries = {field.name: getattr(record, field.name) for field in fields(record)}
    defaults = {field.name: field.default for field in fields(record)}
    return {key: entry for key, entry in entries.items() if entry != defaults[key]}


def to_toml(cluster: Cluster) -> str:
    """The text of a file that describes this cluster."""
    document = cluster_to_dict(cluster)
    device, levels = document.pop("device"), document.pop("levels")
    sources = document.pop("sources")
    assert isinstance(device, dict)
    assert isinstance(levels, list)
    assert isinstance(sources, dict)
    rates = device.pop("flops_per_s")
    blocks = [
        _toml_lines(document),
        ["[device]", *_toml_lines(device)],
        ["[device.flops_per_s]", *_toml_lines(rates)],
        *(["[[levels]]", *_toml_lines(level)] for level in levels),
        ["[sources]", *_toml_lines(sources)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def parse_toml(data: bytes, where: str) -> dict[str, object]:
    """The document in these bytes.

    Raises:
        ClusterError: if they are not TOML.
    """
    try:
        return tomllib.loads(data.decode())
    except ValueError as error:
        raise ClusterError(
            f"not a TOML file: {error}",
            where=where,
            hint="the top of tepdist/cluster/files.py shows the form",
        ) from None


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint: the known name most like this one, or all of them."""
    names = tuple(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(names)}"


@dataclass(frozen=True, slots=True)
class _Table:
    """A TOML table whose entries are checked as they are read."""

    entries: Mapping[str, object]
    where: str

    def allow(self, known: tuple[str, ...]) -> None:
        for key in self.entries:
            if key not in known:
                raise ClusterError(
                    f"unknown key {key!r}", where=self.where, hint=nearest(key, known)
                )

    def get(self, key: str) -> object:
        if key not in self.entries:
            raise ClusterError(
                f"key {key!r} is missing", where=self.where, hint=f"add {key} = ..."
            )
        return self.entries[key]

    def text(self, key: str) -> str:
        found = self.get(key)
        if not isinstance(found, str):
            raise self._unfit(key, found, "a string")
        return found

    def flag(self, key: str, *, default: bool) -> bool:
        found = self.entries.get(key, default)
        if not isinstance(found, bool):
            raise self._unfit(key, found, "true or false")
        return found

    def number(self, key: str, *, default: float | None = None) -> float:
        found = self.get(key) if default is None else self.entries.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self._unfit(key, found, "a number")
        if not math.isfinite(found) or found < 0:
            raise self._unfit(key, found, "a finite number, zero or more")
        return float(found)

    def positive(self, key: str) -> float:
        found = self.number(key)
        if found == 0:
            raise self._unfit(key, found, "more than zero")
        return found

    def positive_or_none(self, key: str) -> float | None:
        return self.positive(key) if key in self.entries else None

    def times(self, key: str) -> Times:
        found = self.get(key)
        pairs = found if isinstance(found, list | tuple) else [found]
        times = []
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise self._unfit(key, found, "pairs: [[bytes, seconds], ..]")
            table = _Table({"bytes": pair[0], "seconds": pair[1]}, self.where)
            times.append((table.number("bytes"), table.number("seconds")))
        return tuple(times)

    def whole(self, key: str, *, default: int | None = None) -> int:
        found = self.number(key, default=default)
        if found != int(found):
            raise self._unfit(key, found, "a whole number")
        return int(found)

    def table(self, key: str) -> "_Table":
        found = self.get(key)
        if not isinstance(found, Mapping):
            raise self._unfit(key, found, f"a table: [{key}]")
        return _Table(found, f"{self.where}: {key}")

    def tables(self, key: str) -> list["_Table"]:
        found = self.get(key)
        if not isinstance(found, list | tuple) or not found:
            raise self._unfit(key, found, f"one or more tables: [[{key}]]")
        for entry in found:
            if not isinstance(entry, Mapping):
                raise self._unfit(key, entry, f"a table: [[{key}]]")
        return [
            _Table(entry, f"{self.where}: {key}[{index}]")
            for index, entry in enumerate(found)
        ]

    def _unfit(self, key: str, found: object, wanted: str) -> ClusterError:
        return ClusterError(
            f"{key} is {found!r}", where=self.where, hint=f"it must be {wanted}"
        )


def _device(table: _Table) -> Device:
    table.allow(_DEVICE_KEYS)
    platform = table.text("platform")
    if platform not in PLATFORMS:
        raise ClusterError(
            f"unknown platform {platform!r}",
            where=table.where,
            hint=nearest(platform, PLATFORMS),
        )
    rates = table.table("flops_per_s")
    return Device(
        kind=table.text("kind"),
        platform=platform,
        flops_per_s=MappingProxyType(
            {dtype: rates.positive(dtype) for dtype in rates.entries}
        ),
        matmul_efficiency=table.positive("matmul_efficiency"),
        memory_bytes=table.whole("memory_bytes"),
        reserved_bytes=table.whole("reserved_bytes"),
        memory_bytes_per_s=table.positive("memory_bytes_per_s"),
        launch_s=table.number("launch_s"),
        half_extent=table.number("half_extent", default=0.0),
        packing_bytes_per_s=table.positive_or_none("packing_bytes_per_s"),
        memory_times=(
            table.times("memory_times") if "memory_times" in table.entries else ()
        ),
    )


def _level(table: _Table) -> LinkLevel:
    table.allow(_LEVEL_KEYS)
    return LinkLevel(
        name=table.text("name"),
        size=table.whole("size"),
        latency_s=table.number("latency_s"),
        bytes_per_s=table.positive("bytes_per_s"),
        start_s=table.number("start_s", default=0.0),
        measured=tuple(
            _measured(each)
            for each in (
                table.tables("measured") if "measured" in table.entries else ()
            )
        ),
    )


def _measured(table: _Table) -> MeasuredCollective:
    table.allow(_MEASURED_KEYS)
    return MeasuredCollective(
        kind=table.text("kind"),
        size=table.whole("size"),
        times=table.times("times"),
    )


def _toml_lines(entries: Mapping[str, object]) -> list[str]:
    return [f"{_toml_key(key)} = {_toml(entry)}" for key, entry in entries.items()]


def _toml(entry: object) -> str:
    if isinstance(entry, bool):
        return str(entry).lower()
    if isinstance(entry, list | tuple):
        parts = [
            f"{{ {', '.join(_toml_lines(part))} }}"
            if isinstance(part, dict)
            else _toml(part)
            for part in entry
        ]
        if any(isinstance(part, dict) for part in entry):
            return "[\n" + "".join(f"    {part},\n" for part in parts) + "]"
        return f"[{', '.join(parts)}]"
    return _toml_string(entry) if isinstance(entry, str) else repr(entry)


def _toml_key(key: str) -> str:
    return key if key.isascii() and key.isidentifier() else _toml_string(key)


def _toml_string(text: str) -> str:
    # TOML's basic strings are JSON's, but for one character that JSON leaves bare.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
