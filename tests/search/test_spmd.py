"""The search as a whole: levels, bounds, meshes, time."""

import time

import pytest

from tepdist import zoo
from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.errors import NoPlanFits
from tepdist.frontends.jax import trace
from tepdist.plans.types import Options
from tepdist.report.terminal import as_text, plan_screen
from tepdist.sharding import Mesh

SPECS = (
    "mlp:layers=3,width=64,batch=64",
    "gpt:hidden=32,heads=4,seq=16,vocab=64,batch=8",
    "gpt:hidden=32,heads=4,seq=16,vocab=64,batch=8,scan=true,remat=full",
)
SECONDS_OVER = 2.0


@pytest.fixture(scope="module", params=SPECS)
def plan(request):
    """Plans one program, on four devices unless told otherwise."""
    built = zoo.build(request.param)
    traced = trace(built.train_step, (built.state, built.batch), {})
    program = traced.read()

    def planned(cluster="cpu:4", **options):
        return compile_plan(
            program, traced.roles, parse_cluster(cluster), options=Options(**options)
        )

    return planned


@pytest.mark.parametrize("mesh", ["4", "2x2", None])
def test_o2_is_never_worse_than_o1_and_no_better_than_its_bound(plan, mesh):
    forced = None if mesh is None else Mesh.parse(mesh)
    heuristic = plan(mesh=forced, level="O1").search
    solved = plan(mesh=forced, level="O2").search
    assert solved.cost_s <= heuristic.cost_s
    assert heuristic.lower_bound_s <= solved.lower_bound_s * (1 + 1e-6)
    assert solved.lower_bound_s <= solved.cost_s
    assert solved.lower_bound_s >= solved.cost_s * (1 - 1e-6)


def test_more_meshes_never_cost_more(plan):
    free = plan()
    assert free.search.num_candidates == 2
    forced = [plan(mesh=Mesh.parse(mesh)).search.cost_s for mesh in ("4", "2x2")]
    assert free.search.cost_s == pytest.approx(min(forced), rel=1e-6)


def test_the_cost_is_the_predicted_step(plan):
    found = plan(mesh=Mesh.parse("2x2"))
    predicted = found.predicted
    assert predicted.compute_s <= found.search.cost_s * (1 + 1e-9)
    # The search may price a resharding that several readers share more than once.
    assert predicted.step_time_s <= found.search.cost_s * (1 + 1e-6)


def test_the_same_question_has_the_same_answer(plan):
    first, second = (plan(mesh=Mesh.parse("2x2")) for _ in range(2))
    assert first.stages == second.stages
    assert first.search.cost_s == second.search.cost_s


def test_one_device_needs_no_collective(plan):
    found = plan("cpu:1")
    (stage,) = found.stages
    assert stage.collectives == ()
    assert all(sharding.is_replicated for sharding in stage.values)


def test_a_limit_that_does_not_bind_costs_nothing(plan):
    mesh = Mesh.parse("2x2")
    free = plan(mesh=mesh)
    memory = free.stages[0].memory
    limit = max(memory.peak, memory.allocated) + 1
    limited = plan(mesh=mesh, memory_limit_bytes=limit)
    assert limited.predicted.memory_per_device_bytes <= limit
    assert limited.search.cost_s == pytest.approx(free.search.cost_s, rel=1e-6)


def test_a_lower_limit_never_costs_less(plan):
    mesh = Mesh.parse("4")
    free = plan(mesh=mesh)
    peak = free.predicted.memory_per_device_bytes
    cost_s = free.search.cost_s
    for share in (0.95, 0.9, 0.85):
        limit = int(share * peak)
        try:
            found = plan(mesh=mesh, memory_limit_bytes=limit)
        except NoPlanFits:
            break
        assert found.predicted.memory_per_device_bytes <= limit
        assert found.search.cost_s >= cost_s * (1 - 1e-6)
        assert found.search.lower_bound_s <= found.search.cost_s


def test_within_a_limit_a_higher_level_is_never_worse(plan):
    mesh = Mesh.parse("4")
    limit = int(0.9 * plan(mesh=mesh).predicted.memory_per_device_bytes)

    def cost_s(level):
        try:
            found = plan(mesh=mesh, memory_limit_bytes=limit, level=level)
        except NoPlanFits:
            return float("inf")
        return found.search.cost_s

    assert cost_s("O2") <= cost_s("O1") * (1 + 1e-6)


def test_more_than_the_limit_is_allocated_only_where_the_plan_says_so(plan):
    mesh = Mesh.parse("4")
    peak = plan(mesh=mesh).predicted.memory_per_device_bytes
    for share in (0.95, 0.85):
        limit = int(share * peak)
        try:
            found = plan(mesh=mesh, memory_limit_bytes=limit)
        except NoPlanFits:
            break
        memory = found.stages[0].memory
        assert memory.peak <= limit
        is_said = "more than the limit" in " ".join(as_text(plan_screen(found)).split())
        assert is_said == (memory.allocated > limit)


@pytest.mark.parametrize("limit_s", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("spec", ["gpt:tiny", "gpt:117m"])
def test_a_plan_comes_within_the_time_limit(spec, limit_s):
    built = zoo.build(spec)
    traced = trace(built.train_step, (built.state, built.batch), {})
    program = traced.read()
    started_s = time.process_time()
    found = compile_plan(
        program,
        traced.roles,
        parse_cluster("cpu:4"),
        options=Options(time_limit_s=limit_s),
    )
    # Other work on the machine does not count.
    assert time.process_time() - started_s <= limit_s + SECONDS_OVER
    bound = found.search.lower_bound_s
    assert bound is None or bound <= found.search.cost_s
