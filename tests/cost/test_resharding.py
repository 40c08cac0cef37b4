"""Steps of a resharding, against Shardy's own passes and what XLA compiles."""

import functools
import itertools
import math
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir as jax_mlir
from jax.sharding import NamedSharding, PartitionSpec
from jaxlib.mlir import ir
from jaxlib.mlir.passmanager import PassManager

from tepdist.cluster.presets import parse_cluster
from tepdist.cost.axis_parts import AxisPart, PartSharding, joined
from tepdist.cost.collectives import collective_s
from tepdist.cost.pricing import Pricing, reshardings
from tepdist.cost.resharding import resharding_path, resharding_s, resharding_steps
from tepdist.cost.resharding_walk import Step
from tepdist.sharding import Mesh, Sharding

SHARDY = (
    "builtin.module(func.func(sdy-insert-explicit-reshards{enable-full-version=true},"
    "sdy-reshard-to-collectives))"
)
ITEMSIZE = 4
Summary = tuple[str, tuple[AxisPart, ...] | None, int]


def shardings(rank: int, axes: tuple[str, ...]) -> list[Sharding]:
    """Every sharding of a tensor of this rank."""
    found = set()
    for count in range(len(axes) + 1):
        for order in itertools.permutations(axes, count):
            for dims in itertools.product(range(rank), repeat=count):
                placed = [
                    tuple(a for a, at in zip(order, dims, strict=True) if at == dim)
                    for dim in range(rank)
                ]
                found.add(Sharding(tuple(placed)))
    return sorted(found, key=str)


def sampled_pairs(rank: int, mesh: Mesh, count: int) -> list[tuple[Sharding, Sharding]]:
    pairs = list(itertools.permutations(shardings(rank, mesh.names), 2))
    random.Random(rank).shuffle(pairs)
    return pairs[:count]


def divisible_shape(rank: int, mesh: Mesh) -> tuple[int, ...]:
    return tuple(mesh.num_devices * 2**at for at in range(1, rank + 1))


def summary(step: Step) -> Summary:
    # Shardy states no axes for a permute.
    parts = None if step.kind == "collective_permute" else joined(list(step.parts))
    return step.kind, parts, step.bytes_


# -- Shardy ------------------------------------------------------------------------


def sdy_text(sharding: Sharding) -> str:
    dims = ", ".join(
        "{" + ", ".join(f'"{axis}"' for axis in dim) + "}" for dim in sharding.dims
    )
    return f"#sdy.sharding<@mesh, [{dims}]>"


def shardy_module(
    source: Sharding, target: Sharding, shape: tuple[int, ...], mesh: Mesh
) -> str:
    """A module that only reshards, after Shardy's passes."""
    axes = ", ".join(f'"{name}"={size}' for name, size in mesh.axes)
    tensor = "tensor<" + "x".join(map(str, shape)) + "xf32>"
    text = f"""
        sdy.mesh @mesh = <[{axes}]>
        func.func @main(%0: {tensor} {{sdy.sharding = {sdy_text(source)}}})
            -> ({tensor} {{sdy.sharding = {sdy_text(target)}}}) {{
          return %0 : {tensor}
        }}"""
    with jax_mlir.make_ir_context():
        module = ir.Module.parse(text)
        PassManager.parse(SHARDY).run(module.operation)
        return str(module)


def parsed_parts(text: str, mesh: Mesh) -> tuple[AxisPart, ...]:
    return tuple(
        AxisPart(name, int(pre or 1), int(size or mesh.axis_size(name)))
        for name, pre, size in re.findall(r'"(\w+)"(?::\((\d+)\)(\d+))?', text)
    )


def shardy_steps(text: str, shape: tuple[int, ...], mesh: Mesh) -> list[Summary]:
    pattern = r"sdy\.(all_gather|all_to_all|collective_permute) (.*?)%\S+ out_sharding="
    pattern += r"<@mesh, \[(.*)\]> :"
    steps: list[Summary] = []
    for kind, operands, result in re.findall(pattern, text):
        after = [parsed_parts(dim, mesh) for dim in re.findall(r"\{(.*?)\}", result)]
        if kind == "all_gather":
            over = [parsed_parts(d, mesh) for d in re.findall(r"\{(.*?)\}", operands)]
            steps.extend(gathers_by_dim(over, after, shape))
        else:
            parts = parsed_parts(operands, mesh) if kind == "all_to_all" else None
            steps.append((kind, parts, local_bytes(after, shape)))
    return steps


def gathers_by_dim(
    over: list[tuple[AxisPart, ...]],
    after: list[tuple[AxisPart, ...]],
    shape: tuple[int, ...],
) -> list[Summary]:
    """One all-gather of several dims as XLA runs it: one a dim, the last first."""
    steps: list[Summary] = []
    for dim in reversed(range(len(shape))):
        if over[dim]:
            left = [
                after[at] + (over[at] if at < dim else ()) for at in range(len(shape))
            ]
            steps.append(("all_gather", over[dim], local_bytes(left, shape)))
    return steps


def local_bytes(
    dims: list[tuple[AxisPart, ...]] | PartSharding, shape: tuple[int, ...]
) -> int:
    return ITEMSIZE * math.prod(
        -(-extent // math.prod(part.size for part in parts))
        for extent, parts in zip(shape, dims, strict=True)
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "sizes", [(4,), (6,), (2, 2), (2, 4), (4, 2), (3, 4), (2, 6), (6, 4), (2, 2, 2)]
)
def test_steps_are_shardys(sizes, rank):
    mesh = Mesh.of_shape(sizes)
    shape = divisible_shape(rank, mesh)
    for source, target in sampled_pairs(rank, mesh, 40):
        steps = resharding_steps(source, target, shape, itemsize=ITEMSIZE, mesh=mesh)
        wanted = shardy_steps(shardy_module(source, target, shape, mesh), shape, mesh)
        assert [summary(step) for step in steps] == wanted, (source, target)


@pytest.mark.parametrize("shape", [(8, 8), (8, 24), (24, 8)])
def test_steps_of_tight_shapes_are_shardys(shape):
    # Where a dim has no room for the axes on their way elsewhere.
    mesh = Mesh.of_shape((4, 2))
    for source, target in sampled_pairs(2, mesh, 60):
        steps = resharding_steps(source, target, shape, itemsize=ITEMSIZE, mesh=mesh)
        wanted = shardy_steps(shardy_module(source, target, shape, mesh), shape, mesh)
        assert [summary(step) for step in steps] == wanted, (source, target)


# -- XLA ---------------------------------------------------------------------------


@functools.cache
def jax_mesh(sizes: tuple[int, ...]) -> jax.sharding.Mesh:
    devices = np.array(jax.devices()[: math.prod(sizes)]).reshape(sizes)
    return jax.sharding.Mesh(devices, Mesh.of_shape(sizes).names)


def named(path: list[PartSharding], mesh: Mesh) -> list[NamedSharding]:
    return [
        NamedSharding(
            jax_mesh(mesh.shape),
            PartitionSpec(*(tuple(part.axis for part in dim) for dim in dims)),
        )
        for dims in path
    ]


def compiled_inside(
    path: list[PartSharding], shape: tuple[int, ...], mesh: Mesh
) -> list[tuple[str, int]]:
    """The same within a program, whose arguments and results have equal parts."""
    placed = named(path, mesh)

    def reshard(x: jax.Array) -> jax.Array:
        x = jax.lax.optimization_barrier(
            jax.lax.with_sharding_constraint(jnp.tanh(x), placed[0])
        )
        for sharding in placed:
            x = jax.lax.with_sharding_constraint(x, sharding)
        return jax.lax.with_sharding_constraint(x * 3, placed[-1]).sum()

    argument = jax.ShapeDtypeStruct(shape, np.float32)
    whole = NamedSharding(jax_mesh(mesh.shape), PartitionSpec())
    jitted = jax.jit(reshard, in_shardings=whole, out_shardings=whole)
    found = collectives_in(jitted.lower(argument).compile().as_text())
    return [(kind, bytes_) for kind, bytes_ in found if kind != "all_reduce"]


def compiled_collectives(
    path: list[PartSharding], shape: tuple[int, ...], mesh: Mesh
) -> list[tuple[str, int]]:
    """What XLA runs to take a tensor through these shardings."""
    placed = named(path, mesh)

    def reshard(x: jax.Array) -> jax.Array:
        x = -x
        for sharding in placed:
            x = jax.lax.with_sharding_constraint(x, sharding)
        return x * 3

    jitted = jax.jit(reshard, in_shardings=placed[0], out_shardings=placed[-1])
    argument = jax.ShapeDtypeStruct(shape, np.float32)
    return collectives_in(jitted.lower(argument).compile().as_text())


def collectives_in(hlo: str) -> list[tuple[str, int]]:
    pattern = r"= (.*?) (all-gather|all-to-all|collective-permute|all-reduce)\("
    return [
        (
            kind.replace("-", "_"),
            ITEMSIZE
            * sum(
                math.prod(int(extent) for extent in extents.split(",") if extent)
                for extents in re.findall(r"f32\[([\d,]*)\]", types)
            ),
        )
        for types, kind in re.findall(pattern, hlo)
    ]


def whole_axes(sharding: Sharding, mesh: Mesh) -> PartSharding:
    return tuple(
        tuple(AxisPart(axis, 1, mesh.axis_size(axis)) for axis in dim)
        for dim in sharding.dims
    )


@pytest.mark.parametrize("shape", [(16,), (8, 16), (8, 4, 12)])
def test_on_one_axis_xla_finds_the_same_steps_from_the_target_alone(shape):
    mesh = Mesh.of_shape((4,))
    for source, target in itertools.permutations(shardings(len(shape), ("x",)), 2):
        path = [whole_axes(source, mesh), whole_axes(target, mesh)]
        steps = resharding_steps(source, target, shape, itemsize=ITEMSIZE, mesh=mesh)
        wanted = [(step.kind, step.bytes_) for step in steps]
        assert compiled_collectives(path, shape, mesh) == wanted, (source, target)


@pytest.mark.parametrize("sizes", [(2, 2), (2, 4)])
def test_xla_runs_the_steps_when_told_the_path(sizes):
    mesh, shape = Mesh.of_shape(sizes), (16, 16)
    for source, target in sampled_pairs(2, mesh, 40):
        path = resharding_path(source, target, shape, mesh=mesh)
        if any(part.size < mesh.axis_size(part.axis) for part in flat(path)):
            continue  # jax.sharding cannot name parts of axes
        steps = resharding_steps(source, target, shape, itemsize=ITEMSIZE, mesh=mesh)
        wanted = [(step.kind, step.bytes_) for step in steps]
        whole = [whole_axes(source, mesh), *path]
        assert compiled_collectives(whole, shape, mesh) == wanted, (source, target)


@pytest.mark.parametrize("shape", [(53, 16), (15, 27), (12, 7)])
@pytest.mark.parametrize("sizes", [(4,), (2, 2), (2, 4)])
def test_xla_runs_the_steps_of_unequal_parts(sizes, shape):
    mesh = Mesh.of_shape(sizes)
    pairs = sampled_pairs(2, mesh, 400)
    told = [
        (source, target)
        for source, target in pairs
        if any(
            sharding.uneven_dims(shape, mesh) and fills(sharding, shape, mesh)
            for sharding in (source, target)
        )
        and all(fills(sharding, shape, mesh) for sharding in (source, target))
    ]
    assert told
    for source, target in told[:10]:
        path = resharding_path(source, target, shape, mesh=mesh)
        if any(part.size < mesh.axis_size(part.axis) for part in flat(path)):
            continue  # jax.sharding cannot name parts of axes
        steps = resharding_steps(source, target, shape, itemsize=ITEMSIZE, mesh=mesh)
        wanted = [(step.kind, step.bytes_) for step in steps]
        whole = [whole_axes(source, mesh), *path]
        found = compiled_inside(whole, shape, mesh)
        assert found == wanted, (source, target)


def fills(sharding: Sharding, shape: tuple[int, ...], mesh: Mesh) -> bool:
    """Whether each device has a part."""
    return all(
        (mesh.size_of(axes) - 1) * -(-extent // mesh.size_of(axes)) < extent
        for extent, axes in zip(shape, sharding.dims, strict=True)
    )


def flat(path: tuple[PartSharding, ...]) -> list[AxisPart]:
    return [part for dims in path for dim in dims for part in dim]


# -- Laws --------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(8,), (2, 4), (3, 4), (2, 2, 2), (2, 6, 3)])
def test_a_path_ends_at_the_target(sizes, rank):
    mesh = Mesh.of_shape(sizes)
    shape = divisible_shape(rank, mesh)
    for source, target in sampled_pairs(rank, mesh, 500):
        path = resharding_path(source, target, shape, mesh=mesh)
        assert path[-1] == whole_axes(target, mesh)


def test_an_axis_of_one_device_changes_nothing():
    with_ones, without = Mesh((("x", 1), ("y", 4), ("z", 2))), Mesh.parse("y=4,z=2")
    for source, target in itertools.product(shardings(2, with_ones.names), repeat=2):
        steps = [
            resharding_steps(before, after, (16, 16), itemsize=4, mesh=mesh)
            for before, after, mesh in (
                (source, target, with_ones),
                (left_out(source, "x"), left_out(target, "x"), without),
            )
        ]
        assert steps[0] == steps[1]


def left_out(sharding: Sharding, axis: str) -> Sharding:
    return Sharding(tuple(tuple(a for a in dim if a != axis) for dim in sharding.dims))


def test_staying_and_slicing_are_free():
    mesh = Mesh.of_shape((2, 4))
    cluster = parse_cluster("cpu:8")
    for source, target in itertools.product(shardings(2, ("x", "y")), repeat=2):
        is_slice = all(
            after[: len(before)] == before
            for before, after in zip(source.dims, target.dims, strict=True)
        )
        seconds = resharding_s(
            source, target, (16, 16), itemsize=4, mesh=mesh, cluster=cluster
        )
        assert (seconds == 0) == is_slice


def test_time_is_the_sum_of_the_steps():
    mesh = Mesh.of_shape((2, 4))
    cluster = parse_cluster("2x4xh100")
    source, target = Sharding((("x", "y"), ())), Sharding(((), ("x",)))
    across = cluster.spans(mesh, ("x",))
    everywhere = cluster.spans(mesh, ("x", "y"))
    within = cluster.spans(mesh, ("y",))
    assert [step.mesh_axes for step in steps_of(source, target, mesh)] == [
        ("x", "y"),
        ("x",),
        ("y",),
    ]
    seconds = resharding_s(
        source, target, (16, 16), itemsize=4, mesh=mesh, cluster=cluster
    )
    assert seconds == pytest.approx(
        collective_s("collective_permute", 128, everywhere)
        + collective_s("all_to_all", 128, across)
        + collective_s("all_gather", 512, within)
    )


def test_a_part_of_an_axis_is_priced_on_its_own_links():
    # y is cut in two: its outer half joins the nodes, its inner half lies in one.
    mesh = Mesh.of_shape((2, 8))
    cluster = parse_cluster("4x4xh100")
    source, target = Sharding((("x",), ("y",))), Sharding((("y",), ("x",)))
    permute, exchange = steps_of(source, target, mesh, shape=(64, 64))
    assert exchange.parts == (AxisPart("y", 2, 4),)
    bytes_ = 64 * 64 * 4 // 16
    assert resharding_s(
        source, target, (64, 64), itemsize=4, mesh=mesh, cluster=cluster
    ) == pytest.approx(
        collective_s("collective_permute", bytes_, cluster.spans(mesh, ("x", "y")))
        + collective_s("all_to_all", bytes_, cluster.spans(Mesh.of_shape((4, 4)), "y"))
    )
    assert permute.kind == "collective_permute"


def steps_of(
    source: Sharding,
    target: Sharding,
    mesh: Mesh,
    *,
    shape: tuple[int, ...] = (16, 16),
) -> tuple[Step, ...]:
    return resharding_steps(source, target, shape, itemsize=4, mesh=mesh)


@pytest.mark.parametrize("shape", [(8,), (2, 4), (4, 2), (2, 3)])
def test_a_table_holds_the_time_of_each_resharding(shape):
    mesh = Mesh.of_shape(shape)
    cluster = parse_cluster(f"{math.prod(shape)}xa100-80g")
    lying = tuple(shardings(2, mesh.names))
    extents = divisible_shape(2, mesh)
    table = Pricing(cluster, mesh).resharding_table(
        ITEMSIZE * math.prod(extents), reshardings(lying, lying[::-1])
    )
    for source, row in zip(lying, table, strict=True):
        for target, seconds in zip(reversed(lying), row, strict=True):
            assert seconds == pytest.approx(
                resharding_s(
                    source,
                    target,
                    extents,
                    itemsize=ITEMSIZE,
                    mesh=mesh,
                    cluster=cluster,
                )
            )
