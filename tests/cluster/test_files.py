"""Clusters as TOML and as dicts, both ways."""

import copy
import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepdist.cluster.files import cluster_from_dict, cluster_to_dict, to_toml
from tepdist.cluster.model import (
    COLLECTIVE_KINDS,
    Cluster,
    Device,
    LinkLevel,
    MeasuredCollective,
)
from tepdist.cluster.presets import PRESETS, parse_cluster
from tepdist.cost.fitting import curve
from tepdist.errors import ClusterError

rates = st.floats(min_value=1e-9, max_value=1e30)
times = st.floats(min_value=0, max_value=1e6)
curves = st.lists(
    st.tuples(st.floats(1e-3, 1e12), st.floats(1e-9, 1e3)), min_size=1, max_size=4
).map(lambda points: curve(dict(points).items()))
texts = st.text(
    st.characters(exclude_categories=["Cs"]),  # a lone surrogate is no Unicode text
    max_size=20,
)
devices = st.builds(
    Device,
    kind=texts,
    platform=st.sampled_from(["cpu", "gpu", "tpu"]),
    flops_per_s=st.dictionaries(texts, rates).map(lambda more: {"f32": 1e9, **more}),
    matmul_efficiency=st.floats(min_value=1e-3, max_value=1),
    memory_bytes=st.integers(2**20, 2**50),
    reserved_bytes=st.integers(0, 2**20 - 1),
    memory_bytes_per_s=rates,
    launch_s=times,
    half_extent=times,
    packing_bytes_per_s=st.none() | rates,
    memory_times=st.just(()) | curves,
)
measured = st.builds(
    MeasuredCollective,
    kind=st.sampled_from(COLLECTIVE_KINDS),
    size=st.integers(2, 9),
    times=curves,
)
levels = st.builds(
    LinkLevel,
    name=texts,
    size=st.integers(1, 9),
    latency_s=times,
    bytes_per_s=rates,
    start_s=times,
    measured=st.lists(
        measured, max_size=3, unique_by=lambda each: (each.kind, each.size)
    ).map(tuple),
)
clusters = st.builds(
    Cluster,
    name=texts,
    device=devices,
    levels=st.lists(levels, min_size=1, max_size=3).map(tuple),
    scatters_sums=st.booleans(),
    sources=st.dictionaries(texts, texts, max_size=3),
    combines_bytes=st.integers(0, 2**40),
)


@given(clusters)
def test_a_cluster_written_as_toml_reads_back_equal(cluster):
    assert cluster_from_dict(tomllib.loads(to_toml(cluster))) == cluster


@given(clusters)
def test_a_cluster_written_as_json_reads_back_equal(cluster):
    document = json.loads(json.dumps(cluster_to_dict(cluster)))
    assert cluster_from_dict(document) == cluster


@pytest.mark.parametrize("kind", PRESETS)
def test_a_preset_written_to_a_file_is_read_by_its_path(kind, tmp_path: Path):
    cluster = parse_cluster(f"4x{kind}")
    file = tmp_path / "mine.toml"
    file.write_text(to_toml(cluster))
    assert parse_cluster(str(file)) == cluster


def test_a_file_without_a_name_is_named_after_itself(tmp_path: Path):
    text = to_toml(parse_cluster("cpu:4"))
    file = tmp_path / "lab.toml"
    file.write_text(text.replace('name = "cpu:4"\n', ""))
    assert parse_cluster(str(file)).name == "lab"


def test_bytes_that_are_no_toml_are_refused(tmp_path: Path):
    file = tmp_path / "bad.toml"
    file.write_bytes(b"\xff\xfe = [")
    with pytest.raises(ClusterError, match="not a TOML file"):
        parse_cluster(str(file))


GATHER = {"kind": "all_gather", "size": 4, "times": [[1, 1e-6], [8, 2e-6]]}


@pytest.mark.parametrize(
    ("path", "entry", "problem"),
    [
        (("device",), 3, "device is 3"),
        (("device", "platform"), "gpus", "unknown platform 'gpus'"),
        (("device", "launch_s"), -1e-6, "launch_s is -1e-06"),
        (("device", "launch_s"), float("nan"), "launch_s is nan"),
        (("device", "memory_bytes"), 1.5, "memory_bytes is 1.5"),
        (("device", "memory_bytes"), True, "memory_bytes is True"),
        (("device", "memory_bytes_per_s"), 0, "memory_bytes_per_s is 0"),
        (("device", "matmul_efficiency"), 1.5, "matmul_efficiency of h100 is 1.5"),
        (("device", "reserved_bytes"), 10**12, "h100 reserves 1000000000000 bytes"),
        (("device", "flops_per_s"), {"bf16": 1e15}, "no flops_per_s for f32"),
        (("device", "flops_per_s"), {"f32": "fast"}, "f32 is 'fast'"),
        (("device", "memmory_bytes"), 1, "unknown key 'memmory_bytes'"),
        (("device", "half_extent"), -1, "half_extent is -1"),
        (("device", "packing_bytes_per_s"), 0, "packing_bytes_per_s is 0"),
        (("device", "memory_times"), 3, "memory_times is 3"),
        (("device", "memory_times"), [[1]], "memory_times is [[1]]"),
        (("device", "memory_times"), [[1, "long"]], "seconds is 'long'"),
        (("device", "memory_times"), [[1, 0]], "memory_times of h100 are"),
        (("device", "memory_times"), [[2, 1], [1, 1]], "memory_times of h100 are"),
        (("device", "memory_times"), [[1, 2], [2, 1]], "memory_times of h100 are"),
        (("levels", 0, "start_s"), "soon", "start_s is 'soon'"),
        (("levels", 0, "measured"), [3], "measured is 3"),
        (("levels", 0, "measured"), [GATHER | {"kind": "gather"}], "kind 'gather'"),
        (("levels", 0, "measured"), [GATHER | {"size": 1}], "all_gather among 1"),
        (("levels", 0, "measured"), [GATHER | {"times": []}], "has no times"),
        (("levels", 0, "measured"), [GATHER, GATHER], "is measured twice"),
        (("combines_bytes",), 0.5, "combines_bytes is 0.5"),
        (("levels",), [], "levels is []"),
        (("levels",), [3], "levels is 3"),
        (("levels", 0, "size"), 0, "has size 0"),
        (("levels", 0, "name"), 7, "name is 7"),
        (("scatters_sums",), "yes", "scatters_sums is 'yes'"),
        (("sources",), {"size": 3}, "size is 3"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(path, entry, problem):
    document = copy.deepcopy(cluster_to_dict(parse_cluster("2x8xh100")))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = entry
    with pytest.raises(ClusterError) as caught:
        cluster_from_dict(document, where="mine.toml")
    assert problem in caught.value.problem
    assert caught.value.hint


@pytest.mark.parametrize("key", ["name", "device", "levels"])
def test_a_missing_entry_is_refused_by_name(key):
    document = cluster_to_dict(parse_cluster("8xh100"))
    del document[key]
    with pytest.raises(ClusterError, match=f"key '{key}' is missing"):
        cluster_from_dict(document)
