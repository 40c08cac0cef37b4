"""Three mesh axes: found where they pay, never worse than two, and run right.

Extents of two times an odd number let a mesh axis of 2 cut them into equal parts, but
none of 4: on two axes half of eight devices hold what the other half does, and what
they compute is padded.
"""

import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.errors import NoPlanFits
from tepdist.frontends.jax import trace
from tepdist.lowering.compiled import bytes_by_kind
from tepdist.plans.types import Options
from tepdist.sharding import Mesh
from tepdist.zoo.entries import build

from .models import (
    Transformer,
    assert_equals_one_device,
    expert_layer,
    mlp,
    planned,
)

TWICE_ODD = {
    "mlp": mlp(width=258, batch=2 * 75, layers=2),
    "experts": expert_layer(batch=2, seq=66, hidden=130, experts=2, inner=258),
    "transformer": Transformer(split="dims").case(
        batch=2, seq=66, hidden=90, heads=2, layers=1
    ),
}
# A plan must not need more of the best cost on two axes, where values inside the
# program may be cut into unequal parts, but its arguments may not.
MOST = 0.9


def search_of(program, roles, cluster, **options):
    found = compile_plan(
        program, roles, parse_cluster(cluster), options=Options(**options)
    )
    return found.search, found.stages[0].mesh


def meshes_of_two(num_devices: int) -> list[Mesh]:
    pairs = [(a, num_devices // a) for a in range(2, num_devices)]
    shapes = [(num_devices,), *(p for p in pairs if p[0] * p[1] == num_devices)]
    return [Mesh.of_shape(shape) for shape in shapes]


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("name", TWICE_ODD)
def test_three_axes_use_the_devices_that_two_leave_idle(name, level):
    case = TWICE_ODD[name]
    traced = trace(case.step, (case.state(), case.data(0)), {})
    program = traced.read()
    found, mesh = search_of(program, traced.roles, "cpu:8", level=level)
    assert mesh.shape == (2, 2, 2)
    on_two = [
        search_of(program, traced.roles, "cpu:8", level=level, mesh=each)[0].cost_s
        for each in meshes_of_two(8)
    ]
    assert found.cost_s <= MOST * min(on_two)


def test_a_small_program_has_the_best_plan_of_all_three_axes():
    case = TWICE_ODD["mlp"]
    traced = trace(case.step, (case.state(), case.data(0)), {})
    program = traced.read()
    free, _ = search_of(program, traced.roles, "cpu:8")
    whole, _ = search_of(program, traced.roles, "cpu:8", mesh=Mesh.parse("2x2x2"))
    assert free.cost_s == pytest.approx(whole.cost_s, rel=1e-6)
    assert free.lower_bound_s == pytest.approx(whole.lower_bound_s, rel=1e-6)


@pytest.mark.parametrize(
    ("spec", "cluster"),
    [
        ("experts=2,hidden=1026,inner=4098,batch=2,seq=1026,group=342", "8"),
        ("experts=4,hidden=1024,inner=8192,batch=4,seq=2048,group=1024", "8x8"),
    ],
)
def test_data_experts_and_tensors_take_an_axis_each(spec, cluster):
    built = build(f"moe_layer:{spec}")
    traced = trace(built.train_step, (built.state, built.batch), {})
    program, roles = traced.read(), traced.roles
    cluster = f"{cluster}xa100-80g"
    found, mesh = search_of(program, roles, cluster, level="O1")
    assert len(mesh.axes) == 3
    on_two = [
        search_of(program, roles, cluster, level="O1", mesh=each)[0].cost_s
        for each in meshes_of_two(parse_cluster(cluster).num_devices)
    ]
    assert found.cost_s < 0.99 * min(on_two)


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize(
    ("spec", "cluster"),
    [
        ("mlp:layers=3,width=64,batch=64", "cpu:8"),
        ("gpt:hidden=32,heads=4,seq=16,vocab=64,batch=8", "2x6xa100-80g"),
    ],
)
def test_a_third_axis_never_makes_a_plan_worse(spec, cluster, level):
    built = build(spec)
    traced = trace(built.train_step, (built.state, built.batch), {})
    program, roles = traced.read(), traced.roles
    found, _ = search_of(program, roles, cluster, level=level)
    for mesh in meshes_of_two(parse_cluster(cluster).num_devices):
        forced, _ = search_of(program, roles, cluster, level=level, mesh=mesh)
        assert found.cost_s <= forced.cost_s * (1 + 1e-6)
    assert found.lower_bound_s <= found.cost_s


def test_a_limit_that_only_three_axes_keep_is_kept():
    case = TWICE_ODD["mlp"]
    traced = trace(case.step, (case.state(), case.data(0)), {})
    program, cluster = traced.read(), parse_cluster("cpu:8")
    free = compile_plan(program, traced.roles, cluster, options=Options())
    limit = free.stages[0].memory.peak
    for mesh in meshes_of_two(8):
        options = Options(mesh=mesh, memory_limit_bytes=limit)
        with pytest.raises(NoPlanFits):
            compile_plan(program, traced.roles, cluster, options=options)
    for level in ("O1", "O2"):
        options = Options(level=level, memory_limit_bytes=limit)
        found = compile_plan(program, traced.roles, cluster, options=options)
        assert found.stages[0].memory.peak <= limit


@pytest.mark.parametrize("name", TWICE_ODD)
def test_plans_on_three_axes_equal_one_device(name):
    case = TWICE_ODD[name]
    traced, executable = planned(case, mesh=None)
    (stage,) = executable.plan.stages
    assert len(stage.mesh.axes) == 3
    assert {axis for value in stage.values for axis in value.axes} == {"x", "y", "z"}
    assert_equals_one_device(case, traced, executable)
    assert_priced(executable)


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_a_forced_mesh_of_three_axes_equals_one_device(level):
    case = mlp(width=64, batch=64, layers=3)
    traced, executable = planned(case, "2x2x2", level)
    assert executable.plan.stages[0].mesh.shape == (2, 2, 2)
    assert_equals_one_device(case, traced, executable)
    assert_priced(executable)


def assert_priced(executable) -> None:
    """The compiled program moves what is priced, but for scalars."""
    (text,) = executable.hlo_text()
    compiled = bytes_by_kind(text)
    priced: dict[str, int] = {}
    for each in executable.plan.stages[0].collectives:
        priced[each.kind] = priced.get(each.kind, 0) + each.bytes_ * each.count
    for kind in {*compiled, *priced}:
        assert compiled.get(kind, 0) == pytest.approx(
            priced.get(kind, 0), rel=0.01, abs=256
        )
