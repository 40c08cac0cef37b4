"""Which link levels a group of devices lies on, against counting its devices."""

import itertools
import math
from operator import mul

import pytest

from tepdist.cluster.model import Cluster, LinkLevel
from tepdist.cluster.presets import parse_cluster
from tepdist.errors import ClusterError
from tepdist.sharding import Mesh

LEVELS = [(8,), (12,), (4, 3), (3, 4), (8, 6), (8, 16), (2, 3, 4), (4, 2, 2), (5, 1, 3)]


def cluster(sizes: tuple[int, ...]) -> Cluster:
    levels = tuple(
        LinkLevel(f"level{at}", size, latency_s=1e-6, bytes_per_s=1e9)
        for at, size in enumerate(sizes)
    )
    plain = parse_cluster("cpu:1")
    return Cluster("test", plain.device, levels, plain.scatters_sums, {})


def shapes(num_devices: int, most_axes: int = 3) -> list[tuple[int, ...]]:
    """All ordered factorisations into up to three axes, ones included."""
    divisors = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
    return [
        shape
        for rank in range(1, most_axes + 1)
        for shape in itertools.product(divisors, repeat=rank)
        if math.prod(shape) == num_devices
    ]


def meshes(sizes: tuple[int, ...]) -> list[Mesh]:
    """Meshes of all devices, then of fewer."""
    whole = math.prod(sizes)
    counts = [whole, *range(1, whole)]
    return [
        Mesh.of_shape(shape)
        for count in counts
        for shape in shapes(count, 3 if count == whole else 2)
    ]


def axis_choices(mesh: Mesh) -> list[tuple[str, ...]]:
    return [
        chosen
        for count in range(len(mesh.names) + 1)
        for chosen in itertools.combinations(mesh.names, count)
    ]


def groups(mesh: Mesh, axes: tuple[str, ...]) -> list[list[int]]:
    """Device ids of every group that communicates over these axes."""
    found: dict[tuple[int, ...], list[int]] = {}
    coordinates = itertools.product(*(range(size) for size in mesh.shape))
    for device, coordinate in enumerate(coordinates):
        rest = tuple(
            at
            for at, name in zip(coordinate, mesh.names, strict=True)
            if name not in axes
        )
        found.setdefault(rest, []).append(device)
    return list(found.values())


def counted(sizes: tuple[int, ...], group: list[int]) -> list[set[int]]:
    """For each level the numbers of lower units that its units have of the group."""
    units = list(itertools.accumulate((1, *sizes), mul))
    return [
        {
            len({device // below for device in group if device // unit == at})
            for at in {device // unit for device in group}
        }
        for below, unit in itertools.pairwise(units)
    ]


@pytest.mark.parametrize("sizes", LEVELS)
def test_spans_are_innermost_first_and_multiply_to_the_group(sizes):
    made = cluster(sizes)
    for mesh in meshes(sizes):
        for axes in axis_choices(mesh):
            spans = made.spans(mesh, axes)
            assert math.prod(span.size for span in spans) == mesh.size_of(axes)
            positions = [made.levels.index(span.level) for span in spans]
            assert positions == sorted(set(positions))


@pytest.mark.parametrize("sizes", LEVELS)
def test_an_axis_that_lines_up_spans_what_its_devices_do(sizes):
    made = cluster(sizes)
    for mesh in meshes(sizes):
        for axis in mesh.names:
            counts = [counted(sizes, group) for group in groups(mesh, (axis,))]
            merged = [set().union(*level) for level in zip(*counts, strict=True)]
            spans = made.spans(mesh, (axis,))
            got = {span.level.name: span.size for span in spans}
            if all(len(level) == 1 for level in merged):
                wanted = [level.pop() for level in merged]
                assert got == {
                    f"level{at}": n for at, n in enumerate(wanted) if n > 1
                }, (mesh, axis)
            else:
                outermost = max(at for at, level in enumerate(merged) if max(level) > 1)
                assert got == {f"level{outermost}": mesh.axis_size(axis)}, (mesh, axis)


@pytest.mark.parametrize("sizes", LEVELS)
def test_all_axes_together_span_all_levels(sizes):
    made = cluster(sizes)
    for shape in shapes(math.prod(sizes)):
        mesh = Mesh.of_shape(shape)
        spans = made.spans(mesh, mesh.names)
        assert [span.size for span in spans] == [size for size in sizes if size > 1]


def test_the_order_in_which_axes_are_named_does_not_matter():
    mesh = Mesh.of_shape((4, 3, 4))
    made = cluster((8, 6))
    for axes in axis_choices(mesh):
        for order in itertools.permutations(axes):
            assert made.spans(mesh, order) == made.spans(mesh, axes)


def test_a_mesh_larger_than_the_cluster_is_refused():
    with pytest.raises(ClusterError, match="mesh x=16 has 16 devices"):
        cluster((8,)).spans(Mesh.of_shape((16,)), ("x",))
