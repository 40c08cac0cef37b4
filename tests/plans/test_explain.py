"""Why a value lies as it does."""

import random
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest

from tepdist.errors import OptionsError
from tepdist.plans.explain import Alternative, explain, find_named
from tepdist.plans.types import Plan
from tepdist.program.roles import Role
from tepdist.sharding import Mesh, Sharding

MakePlan = Callable[[random.Random, Mesh], Plan]


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    return make_plan(random.Random(3), Mesh.parse("2x4"))


def with_collective_on(plan: Plan, index: int) -> Plan:
    (stage,) = plan.stages
    (collective,) = stage.collectives
    moved = replace(collective, value=plan.program.values[index].name)
    return replace(plan, stages=(replace(stage, collectives=(moved,)),))


def test_an_argument_is_found_by_its_name(plan: Plan) -> None:
    found = explain(plan, "params/h/1/w")
    assert found.role is Role.STATE
    assert (found.shape, found.dtype, found.total_bytes) == ((16, 8), "f32", 512)
    assert found.sharding == plan.stages[0].values[1]
    shards = found.sharding.num_shards(found.mesh)
    assert found.bytes_per_device == 512 // shards


def test_results_and_values_inside_are_found_too(plan: Plan) -> None:
    assert explain(plan, "loss").shape == ()
    inside = plan.program.values[-1]
    assert explain(plan, inside.name).shape == inside.shape


def test_a_collective_on_the_value_is_its_own(plan: Plan) -> None:
    moved = with_collective_on(plan, 0)
    found = explain(moved, "params/h/0/w")
    assert found.own == moved.stages[0].collectives
    assert found.readers == found.update == ()


def test_a_collective_on_the_product_concerns_its_operands(plan: Plan) -> None:
    product = next(
        op
        for op in plan.program.ops
        if op.kind == "stablehlo.dot_general"
        and plan.program.arguments[0] in op.operands
    )
    moved = with_collective_on(plan, product.results[0])
    assert explain(moved, "params/h/0/w").readers == moved.stages[0].collectives


def test_a_gradients_collective_concerns_its_parameter(plan: Plan) -> None:
    products = [op for op in plan.program.ops if op.kind == "stablehlo.dot_general"]
    sizes = [plan.program.values[op.results[0]].num_elements for op in products]
    assert sizes.count(8 * 16) == 2
    concerned = []
    for op, size in zip(products, sizes, strict=True):
        if size == 8 * 16:
            found = explain(with_collective_on(plan, op.results[0]), "params/h/0/w")
            concerned.append(len(found.update))
    assert sorted(concerned) == [0, 1]


def test_alternatives_come_cheapest_first(plan: Plan) -> None:
    dear = Alternative(Sharding.replicated(2), added_s=2.0)
    cheap = Alternative(Sharding((("x",), ())), added_s=1.0)
    found = explain(plan, "params/h/0/w", alternatives=(dear, cheap))
    assert found.alternatives == (cheap, dear)


def test_an_unknown_name_is_answered_with_the_nearest(plan: Plan) -> None:
    with pytest.raises(OptionsError, match="named 'params/h/0/q'") as caught:
        explain(plan, "params/h/0/q")
    assert "params/h/0/w" in str(caught.value.hint)


def names(plan: Plan) -> set[str]:
    roles = (*plan.roles.arguments, *plan.roles.results)
    return {role.name for role in roles} | {v.name for v in plan.program.values}


def test_a_name_means_itself_and_a_pattern_all_that_it_matches(plan: Plan) -> None:
    for name in names(plan):
        (found,) = find_named(plan, name)
        assert found.name == name
        assert found.role == explain(plan, name).role
    for pattern in ("*", "params/*", "params/h/?/w", "*[0-9]*"):
        matched = {name for name in names(plan) if fnmatchcase(name, pattern)}
        assert [found.name for found in find_named(plan, pattern)] != []
        assert {found.name for found in find_named(plan, pattern)} == matched


def test_a_pattern_that_matches_nothing_is_refused(plan: Plan) -> None:
    with pytest.raises(OptionsError, match=r"named 'nothing\*'"):
        find_named(plan, "nothing*")
