"""What two plans decide differently."""

import random
from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tepdist.plans.diff import ShardingChange, Traffic, diff
from tepdist.plans.types import Plan
from tepdist.sharding import Mesh, Sharding

MakePlan = Callable[[random.Random, Mesh], Plan]
MESH = Mesh.parse("2x4")
shared_fixtures = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=30,
)


@given(seed=st.integers(0, 2**32))
@shared_fixtures
def test_a_plan_does_not_differ_from_itself(make_plan: MakePlan, seed: int) -> None:
    plan = make_plan(random.Random(seed), MESH)
    found = diff(plan, plan)
    assert found.is_empty
    assert all(cost.left == cost.right for cost in found.costs)


@given(first=st.integers(0, 2**32), second=st.integers(0, 2**32))
@shared_fixtures
def test_a_difference_read_backwards_has_its_sides_swapped(
    make_plan: MakePlan, first: int, second: int
) -> None:
    left = make_plan(random.Random(first), MESH)
    right = make_plan(random.Random(second), MESH)
    forth, back = diff(left, right), diff(right, left)
    swapped = {ShardingChange(c.name, c.right, c.left) for c in back.arguments}
    assert set(forth.arguments) == swapped
    assert forth.num_interior == back.num_interior


def test_each_decision_that_differs_is_named(make_plan: MakePlan) -> None:
    left = make_plan(random.Random(0), MESH)
    (stage,) = left.stages
    whole = Sharding.replicated(2)
    cut = Sharding((("x",), ("y",)))
    before = replace(stage, values=(whole, *stage.values[1:]))
    after = replace(stage, values=(cut, *stage.values[1:]), collectives=())
    found = diff(replace(left, stages=(before,)), replace(left, stages=(after,)))
    assert found.arguments == (ShardingChange("params/h/0/w", whole, cut),)
    assert found.num_interior == 0
    assert found.meshes is None
    (change,) = found.collectives
    assert (change.phase, change.kind) == ("backward", "all_reduce")
    assert (change.left.count, change.left.bytes_) == (2, 1024)
    assert change.right == Traffic(0, 0, 0.0)


def test_other_meshes_and_clusters_are_named(make_plan: MakePlan) -> None:
    left = make_plan(random.Random(0), MESH)
    right = make_plan(random.Random(0), Mesh.parse("4"))
    found = diff(left, right)
    assert found.meshes == ((MESH,), (Mesh.parse("4"),))
    assert found.clusters == ("cpu:8", "cpu:4")
    assert found.programs is None
