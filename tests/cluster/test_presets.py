"""Short forms of clusters, and the presets' figures."""

import pytest

from tepdist.cluster.presets import PRESETS, parse_cluster
from tepdist.errors import ClusterError


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("cpu:8", [8]),
        ("8xcpu", [8]),
        ("8xh100", [8]),
        ("h100:4", [4]),
        ("1xb200", [1]),
        ("128x8xa100-80g", [8, 128]),
        ("3x4xv100-16g", [4, 3]),
        ("256xtpu-v5e", [256]),
        ("2x256xtpu-v5e", [256, 2]),
    ],
)
def test_a_short_form_says_kind_and_sizes(text, sizes):
    cluster = parse_cluster(text)
    assert cluster.name == text
    assert cluster.device.kind in text
    assert [level.size for level in cluster.levels] == sizes


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("8xh1000", "there is no preset 'h1000'", "did you mean h100?"),
        ("8xfoo", "there is no preset 'foo'", "one of cpu, v100-16g"),
        ("", "there is no preset ''", "write cpu:8, 8xh100"),
        ("h100", "h100 without a number of devices", "write cpu:8, 8xh100"),
        ("0xh100", "a count of 0", "1 or more"),
        ("cpu:-8", "a count of -8", "1 or more"),
        ("-2x8xh100", "a count of -2", "1 or more"),
        ("16xh100", "at most 8 devices", "write 2x8xh100"),
        ("12xh100", "at most 8 devices", "write 2x6xh100"),
        ("2x9xh100", "at most 8 devices", "write 3x6xh100"),
        ("257xtpu-v5e", "at most 256 devices", "write 257x1xtpu-v5e"),
        ("2x4xcpu", "cpu has no nodes", "write cpu:8"),
        ("none.toml", "No such file", "give a TOML file"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused_with_a_hint(text, problem, hint):
    with pytest.raises(ClusterError) as caught:
        parse_cluster(text)
    assert problem in caught.value.problem
    assert text in str(caught.value.where)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("kind", PRESETS)
def test_every_figure_of_a_preset_has_a_source(kind):
    cluster = parse_cluster(f"2x{kind}")
    figures = {
        "flops_per_s",
        "matmul_efficiency",
        "memory_bytes",
        "reserved_bytes",
        "memory_bytes_per_s",
        "launch_s",
        "latency_s",
        "scatters_sums",
    }
    links = {level.name for level in cluster.levels}
    assert figures <= set(cluster.sources)
    assert "bytes_per_s" in cluster.sources or links <= set(cluster.sources)


@pytest.mark.parametrize("kind", PRESETS)
def test_the_links_get_slower_outwards(kind):
    cluster = parse_cluster(f"2x2x{kind}" if kind != "cpu" else "cpu:4")
    bandwidths = [level.bytes_per_s for level in cluster.levels]
    latencies = [level.latency_s for level in cluster.levels]
    assert bandwidths == sorted(bandwidths, reverse=True)
    assert latencies == sorted(latencies)
    assert max(bandwidths) < cluster.device.memory_bytes_per_s
