"""Fits find the figures that made the times."""

import itertools
import math
from dataclasses import replace

import pytest

from tepdist.cluster.model import LinkLevel, Span
from tepdist.cluster.presets import parse_cluster
from tepdist.cost.collectives import COLLECTIVES, collective_s
from tepdist.cost.compute import memory_s
from tepdist.cost.fitting import (
    TimedCollective,
    TimedKernel,
    TimedProduct,
    curve,
    fit_level,
    fit_memory,
    fit_products,
    median_error,
    timed_product_s,
)

DEVICE = replace(parse_cluster("cpu:1").device, launch_s=3e-6, memory_bytes_per_s=4e9)
SHAPES = tuple(itertools.product((8, 64, 512), repeat=3))


def products(device):
    for extents in SHAPES:
        rows, columns, contracted = extents
        elements = rows * contracted + contracted * columns + rows * columns
        blank = TimedProduct("f32", extents, 4.0 * elements, 1.0)
        yield replace(blank, seconds=timed_product_s(device, blank))


@pytest.mark.parametrize("half_extent", [0.0, 32.0])
@pytest.mark.parametrize("packing", [None, 1e9])
def test_products_made_by_a_device_are_fitted_by_one_like_it(half_extent, packing):
    made_by = replace(DEVICE, half_extent=half_extent, packing_bytes_per_s=packing)
    timed = list(products(made_by))
    fitted = fit_products(DEVICE, timed)
    pairs = [(timed_product_s(fitted, each), each.seconds) for each in timed]
    assert median_error(pairs) < 0.05
    assert math.isclose(fitted.flops_per_s["f32"], 10e9, rel_tol=0.1)


def test_a_kernels_time_is_its_launch_and_what_its_bytes_take():
    kernels = [TimedKernel(2.0**n, 1e-5 + 2.0**n / 4e9) for n in range(10, 24, 2)]
    tiny = TimedProduct("f32", (1, 1, 1), 12.0, 2e-6)
    fitted = fit_memory(DEVICE, kernels, [tiny])
    assert fitted.launch_s == 2e-6
    for kernel in kernels[1:]:
        found, expected = memory_s(kernel.bytes_, fitted), kernel.bytes_ / 4e9
        assert math.isclose(found, expected - 2.0**10 / 4e9, rel_tol=1e-6)


def test_a_disturbed_measurement_is_taken_down_to_what_more_bytes_take():
    assert curve([(1, 9.0), (2, 2.0), (4, 3.0)]) == ((1, 2.0), (2, 2.0), (4, 3.0))


def test_a_levels_own_formulas_are_found_again():
    level = LinkLevel("links", 8, latency_s=2e-6, bytes_per_s=1e9)
    timed = [
        TimedCollective(
            kind, size, bytes_, COLLECTIVES[kind](bytes_, (Span(level, size),))
        )
        for kind in COLLECTIVES
        for size in (2, 4, 8)
        for bytes_ in (1.0, 1e6, 1e9)
    ]
    fitted = fit_level(replace(level, latency_s=0.0, bytes_per_s=1.0), timed)
    assert math.isclose(fitted.latency_s, 2e-6, rel_tol=0.01)
    assert math.isclose(fitted.bytes_per_s, 1e9, rel_tol=0.2)
    for each in timed:
        spans = (Span(fitted, each.size),)
        found = collective_s(each.kind, each.bytes_, spans)
        assert math.isclose(found, each.seconds, rel_tol=1e-9)


def test_more_devices_are_never_faster_than_fewer():
    level = LinkLevel("links", 4, latency_s=0.0, bytes_per_s=1.0)
    disturbed = [
        TimedCollective("all_gather", size, bytes_, seconds * bytes_)
        for size, seconds in ((2, 5e-6), (4, 3e-6))
        for bytes_ in (1.0, 10.0)
    ]
    fitted = fit_level(level, disturbed)
    for bytes_ in (1.0, 5.0, 100.0):
        pair, four = (
            collective_s("all_gather", bytes_, (Span(fitted, size),)) for size in (2, 4)
        )
        assert pair <= four
