"""Clusters by a short name: ``cpu:8``, ``8xh100``, ``128x8xa100-80g``, or a file.

Each preset is a TOML file beside this one, in the form of `files`, but with the size
of a level being the most it joins, and no size on the outermost, which joins any
number.
"""

import math
import re
from importlib import resources
from pathlib import Path

from tepdist.cluster.files import (
    cluster_from_dict,
    nearest,
    parse_toml,
    read_cluster_file,
)
from tepdist.cluster.model import Cluster
from tepdist.errors import ClusterError, located

PRESETS = (
    "cpu",
    "v100-16g",
    "a100-40g",
    "a100-80g",
    "h100",
    "h200",
    "b200",
    "tpu-v4",
    "tpu-v5e",
    "tpu-v5p",
)
_FORMS = "write cpu:8, 8xh100, 16x8xh100 (nodes x devices) or the path of a TOML file"
_COUNT_AFTER = re.compile(r"(?P<kind>[^:]+):(?P<devices>-?\d+)")
_COUNT_BEFORE = re.compile(r"((?P<nodes>-?\d+)x)?(?P<devices>-?\d+)x(?P<kind>.+)")


def parse_cluster(text: str) -> Cluster:
    """The cluster that a short form or the path of a TOML file names.

    >>> cluster = parse_cluster("16x8xh100")
    >>> [(level.name, level.size) for level in cluster.levels]
    [('nvlink4', 8), ('ndr', 16)]

    Raises:
        ClusterError: for an unknown preset, a count that is not positive, more
            devices than one node holds, or an unreadable file.
    """
    if text.endswith(".toml") or "/" in text:
        return read_cluster_file(Path(text))
    with located(f"cluster {text!r}"):
        return _from_preset(text)


def _from_preset(text: str) -> Cluster:
    match = _COUNT_AFTER.fullmatch(text) or _COUNT_BEFORE.fullmatch(text)
    kind = match["kind"] if match else text
    if kind not in PRESETS:
        raise ClusterError(
            f"there is no preset {kind!r}",
            hint=f"{nearest(kind, PRESETS)}; {_FORMS}",
        )
    if match is None:
        raise ClusterError(f"{kind} without a number of devices", hint=_FORMS)
    nodes = match.groupdict().get("nodes")
    sizes = [int(match["devices"])] + ([int(nodes)] if nodes else [])
    if min(sizes) < 1:
        raise ClusterError(f"a count of {min(sizes)}", hint="counts are 1 or more")
    return _sized(text, kind, sizes)


def _sized(name: str, kind: str, sizes: list[int]) -> Cluster:
    """The preset with levels of these sizes, innermost first."""
    file = resources.files("tepdist.cluster") / f"{kind}.toml"
    document = parse_toml(file.read_bytes(), f"{kind}.toml")
    levels = document["levels"]
    assert isinstance(levels, list)
    if len(sizes) > len(levels):
        raise ClusterError(
            f"{kind} has no nodes",
            hint=f"write {kind}:{math.prod(sizes)}",
        )
    most = levels[0].get("size", math.inf)
    if sizes[0] > most:
        raise ClusterError(
            f"one node of {kind} has at most {most} devices, not {sizes[0]}",
            hint=_split_hint(kind, math.prod(sizes), most),
        )
    sized = [
        {**level, "size": size} for level, size in zip(levels, sizes, strict=False)
    ]
    return cluster_from_dict({**document, "name": name, "levels": sized}, where=name)


def _split_hint(kind: str, devices: int, most: int) -> str:
    nodes = next(
        nodes
        for nodes in range(-(-devices // most), devices + 1)
        if devices % nodes == 0
    )
    return f"write {nodes}x{devices // nodes}x{kind} (nodes x devices)"
