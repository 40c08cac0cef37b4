"""Plans as text: golden files, read by people in review."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from tepdist.plans.diff import diff
from tepdist.plans.explain import Alternative, explain
from tepdist.plans.types import Plan
from tepdist.report.details import diff_screen, explanation_screen
from tepdist.report.groups import argument_groups
from tepdist.report.terminal import as_text, plan_screen
from tepdist.sharding import Mesh, Sharding

MakePlan = Callable[[random.Random, Mesh], Plan]
Golden = Callable[[str, str], None]


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    made = make_plan(random.Random(5), Mesh.parse("data=2,model=4"))
    (stage,) = made.stages
    (collective,) = stage.collectives
    gradient = replace(collective, seconds=0.0015, value="params/h/1/w")
    cut = Sharding((("data",), ("model",)))
    values = (cut, cut, Sharding.replicated(2), *stage.values[3:])
    stage = replace(stage, values=values, collectives=(gradient,))
    # The module's bytes, and so the fingerprint, are another jaxlib's to choose.
    return replace(made, stages=(stage,), fingerprint="0123456789abcdef")


@pytest.mark.parametrize("width", [80, 120])
def test_the_plan_fits_the_terminal(plan: Plan, width: int, golden: Golden) -> None:
    text = as_text(plan_screen(plan), width=width)
    assert max(map(len, text.splitlines())) <= width
    golden(f"plan-{width}.txt", text)


def test_the_explanation_names_collectives_and_alternatives(
    plan: Plan, golden: Golden
) -> None:
    other = Alternative(Sharding((("data",), ())), added_s=0.0021)
    found = explain(plan, "params/h/1/w", alternatives=(other,))
    golden("explain.txt", as_text(explanation_screen(found)))


def test_the_difference_shows_both_sides(
    plan: Plan, make_plan: MakePlan, golden: Golden
) -> None:
    (stage,) = plan.stages
    values = (Sharding.replicated(2), *stage.values[1:])
    other = replace(plan, stages=(replace(stage, values=values, collectives=()),))
    golden("diff.txt", as_text(diff_screen(diff(plan, other))))


def test_equal_plans_are_said_to_be_equal(plan: Plan) -> None:
    assert as_text(diff_screen(diff(plan, plan))) == "the plans decide the same\n"


def test_groups_hold_every_argument_once(plan: Plan) -> None:
    groups = argument_groups(plan)
    assert sum(group.count for group in groups) == len(plan.roles.arguments)
    document_bytes = [group.bytes_per_device for group in groups]
    assert document_bytes == sorted(document_bytes, reverse=True)


def test_one_of_a_thing_is_in_the_singular(plan: Plan) -> None:
    one = replace(plan, search=replace(plan.search, num_candidates=1))
    assert "1 mesh;" in as_text(plan_screen(one))
    otherwise = replace(diff(plan, plan), num_interior=1)
    assert "1 value lies otherwise" in as_text(diff_screen(otherwise))
