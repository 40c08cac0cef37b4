"""Laws of the collectives' times."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepdist.cluster.model import LinkLevel, Span
from tepdist.cost.collectives import (
    COLLECTIVES,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    collective_permute_s,
    collective_s,
    reduce_scatter_s,
)

KINDS = sorted(COLLECTIVES)
payloads = st.floats(min_value=0, max_value=1e12)
link_levels = st.builds(
    LinkLevel,
    name=st.just("link"),
    size=st.just(1024),
    latency_s=st.floats(min_value=1e-9, max_value=1e-3),
    bytes_per_s=st.floats(min_value=1e6, max_value=1e13),
)
spans_ = st.builds(Span, level=link_levels, size=st.integers(1, 1024))
groups = st.lists(spans_, max_size=3).map(tuple)
NEARLY = 1 + 1e-9


def same(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@given(payloads, link_levels)
def test_a_group_of_one_costs_nothing(kind, bytes_, level):
    assert collective_s(kind, bytes_, ()) == 0
    assert collective_s(kind, bytes_, (Span(level, 1),)) == 0


@pytest.mark.parametrize("kind", KINDS)
@given(groups, payloads, payloads)
def test_more_bytes_are_never_faster(kind, group, first, second):
    few, many = sorted((first, second))
    assert collective_s(kind, few, group) <= collective_s(kind, many, group) * NEARLY


@pytest.mark.parametrize("kind", KINDS)
@given(payloads, link_levels, st.integers(1, 1024), st.integers(1, 1024))
def test_more_devices_on_a_level_are_never_faster(kind, bytes_, level, first, second):
    few, many = sorted((first, second))
    assert (
        collective_s(kind, bytes_, (Span(level, few),))
        <= collective_s(kind, bytes_, (Span(level, many),)) * NEARLY
    )


@pytest.mark.parametrize("kind", KINDS)
@given(groups, spans_, payloads)
def test_a_further_level_is_never_faster(kind, group, span, bytes_):
    inner = collective_s(kind, bytes_, group)
    assert inner <= collective_s(kind, bytes_, (*group, span)) * NEARLY


@pytest.mark.parametrize("kind", KINDS)
@given(groups, payloads, st.floats(min_value=1, max_value=1e3))
def test_faster_links_are_never_slower(kind, group, bytes_, factor):
    faster = tuple(
        Span(
            LinkLevel(
                "link", 1024, span.level.latency_s, span.level.bytes_per_s * factor
            ),
            span.size,
        )
        for span in group
    )
    assert (
        collective_s(kind, bytes_, faster) <= collective_s(kind, bytes_, group) * NEARLY
    )


@given(groups, payloads)
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(group, bytes_):
    parts = reduce_scatter_s(bytes_, group) + all_gather_s(bytes_, group)
    assert same(all_reduce_s(bytes_, group), parts)


@given(payloads.filter(bool), link_levels, st.integers(2, 1024))
def test_one_level_is_the_better_of_ring_and_tree(bytes_, level, size):
    latency_s, wire_s = level.latency_s, bytes_ / level.bytes_per_s
    ring = 2 * (size - 1) * (latency_s + wire_s / size)
    tree = 2 * (math.ceil(math.log2(size)) * latency_s + wire_s)
    assert same(all_reduce_s(bytes_, (Span(level, size),)), min(ring, tree))


@given(link_levels, st.integers(2, 1024))
def test_large_payloads_reach_the_ring_bound(level, size):
    bytes_ = 1e3 * size * size * (level.latency_s * level.bytes_per_s + 1)
    bound = 2 * (size - 1) / size * bytes_ / level.bytes_per_s
    assert bound <= all_reduce_s(bytes_, (Span(level, size),)) <= 1.01 * bound


@given(spans_, spans_, payloads.filter(lambda bytes_: bytes_ > 1e-300))
def test_outer_levels_move_what_is_left_by_the_inner_ones(inner, outer, bytes_):
    apart = all_reduce_s(bytes_, (inner,))
    apart += all_reduce_s(bytes_ / inner.size, (outer,))
    assert same(all_reduce_s(bytes_, (inner, outer)), apart)


@given(spans_.filter(lambda span: span.size > 1), payloads.filter(bool))
def test_every_collective_of_several_devices_waits_for_a_message(span, bytes_):
    for kind in KINDS:
        assert collective_s(kind, bytes_, (span,)) >= span.level.latency_s


@pytest.mark.parametrize("kind", KINDS)
@given(groups)
def test_nothing_to_move_takes_no_time(kind, group):
    assert collective_s(kind, 0.0, group) == 0


@given(groups, payloads)
def test_an_all_to_all_is_never_dearer_than_gathering_all(group, bytes_):
    # Everyone could gather the whole tensor and keep what it needs.
    whole = bytes_ * math.prod(span.size for span in group)
    ring = sum((span.size - 1) * span.level.latency_s for span in group)
    assert all_to_all_s(bytes_, group) <= (ring + all_gather_s(whole, group)) * NEARLY


@given(groups, payloads.filter(bool))
def test_a_permute_is_as_slow_as_the_slowest_link(group, bytes_):
    hops = [
        span.level.latency_s + bytes_ / span.level.bytes_per_s
        for span in group
        if span.size > 1
    ]
    assert same(collective_permute_s(bytes_, group), max(hops, default=0.0))


@pytest.mark.parametrize("kind", KINDS)
@given(groups, st.lists(payloads, min_size=1, max_size=5))
def test_an_array_of_payloads_gives_an_array_of_times(kind, group, bytes_):
    together = COLLECTIVES[kind](np.array(bytes_), group)
    alone = [collective_s(kind, each, group) for each in bytes_]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
