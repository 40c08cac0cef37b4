"""Constraints: honoured exactly, or refused by name."""

import fnmatch

import jax
import jax.numpy as jnp
import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.errors import OptionsError
from tepdist.frontends.jax import trace
from tepdist.plans.types import Options
from tepdist.sharding import Mesh

WHOLE = ((), ())
COLUMNS = ((), ("model",))
ROWS = (("model",), ())


def step(params, x):
    hidden = jnp.tanh(x @ params["w1"])
    loss = jnp.sum((hidden @ params["w2"]) ** 2)
    return {name: leaf * 0.9 for name, leaf in params.items()}, loss


@pytest.fixture(scope="module")
def traced():
    matrix = jax.ShapeDtypeStruct((32, 32), jnp.float32)
    return trace(step, ({"w1": matrix, "w2": matrix}, matrix), {})


@pytest.fixture(scope="module")
def plan_with(traced):
    program = traced.read()

    def plan(constraints, mesh="data=2,model=2", level="O2"):
        return compile_plan(
            program,
            traced.roles,
            parse_cluster("cpu:4"),
            options=Options(
                level=level, mesh=Mesh.parse(mesh), constraints=constraints
            ),
        )

    return plan


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize(
    "wanted",
    [
        {"w1": COLUMNS},
        {"w1": COLUMNS, "w2": ROWS},
        {"w?": WHOLE},
        {"w1": (("data", "model"), ())},
        {"w1": (("data",), ("model",))},
        {"tanh.*": (("data",), ("model",))},
        {"x": COLUMNS, "tanh.*": ROWS},
    ],
    ids=str,
)
def test_a_constraint_is_honoured_exactly(plan_with, wanted, level):
    plan = plan_with(wanted, level=level)
    (stage,) = plan.stages
    for pattern, dims in wanted.items():
        named = [v for v in plan.program.values if fnmatch.fnmatch(v.name, pattern)]
        assert named
        for value in named:
            assert stage.values[value.index].dims == dims


def test_the_last_pattern_that_matches_rules(plan_with):
    plan = plan_with({"w?": WHOLE, "w1": COLUMNS})
    assert plan.argument_shardings()["w1"].dims == COLUMNS
    assert plan.argument_shardings()["w2"].dims == WHOLE


def test_a_pattern_that_names_arguments_means_those_alone(plan_with):
    plan = plan_with({"*": ROWS})
    assert {s.dims for s in plan.argument_shardings().values()} == {ROWS}
    assert any(s.dims != ROWS for s in plan.stages[0].values)


def test_a_pattern_that_names_nothing_is_answered_with_the_arguments(plan_with):
    with pytest.raises(OptionsError) as refusal:
        plan_with({"nothing/like/this": WHOLE})
    assert refusal.value.hint == "the arguments: w1, w2, x"


def test_a_constraint_never_makes_a_plan_cheaper(plan_with):
    free = plan_with({})
    for wanted in ({"w1": COLUMNS}, {"w1": WHOLE}, {"x": ROWS}):
        assert plan_with(wanted).search.cost_s >= free.search.cost_s * (1 - 1e-6)
    (stage,) = free.stages
    values = free.program.values
    chosen = {values[v].name: stage.values[v].dims for v in free.program.arguments}
    again = plan_with(chosen)
    assert again.search.cost_s == pytest.approx(free.search.cost_s, rel=1e-6)


@pytest.mark.parametrize(
    ("wanted", "problem", "hint"),
    [
        ({"w3": WHOLE}, "constraint 'w3' matches no argument or value", "'w"),
        ({"w1": ((), ("expert",))}, "has no axis 'expert'", "mesh="),
        ({"w1": ((), (), ())}, "of 3 dims for a tensor of 2", "whole"),
        ({"w1": (("data",), ("data",))}, "uses a mesh axis twice", None),
    ],
    ids=["unknown_name", "unknown_axis", "rank", "axis_twice"],
)
def test_a_constraint_that_makes_no_sense_is_refused(plan_with, wanted, problem, hint):
    with pytest.raises(OptionsError) as refusal:
        plan_with(wanted)
    assert problem in refusal.value.problem
    if hint is not None:
        assert hint in refusal.value.hint
    (pattern,) = wanted
    assert f"constraint {pattern!r}" in str(refusal.value)


def test_a_constraint_that_does_not_divide_is_refused():
    traced = trace(
        lambda w, x: (w * 0.9, jnp.sum(x @ w)),
        tuple(jax.ShapeDtypeStruct((6, 6), jnp.float32) for _ in range(2)),
        {},
    )
    with pytest.raises(OptionsError) as refusal:
        compile_plan(
            traced.read(),
            traced.roles,
            parse_cluster("cpu:4"),
            options=Options(mesh=Mesh.parse("4"), constraints={"x": (("x",), ())}),
        )
    assert "has extent 6, which 4 shards" in refusal.value.problem
    assert refusal.value.where == "constraint 'x', value x"


def test_a_value_made_where_it_is_used_cannot_be_constrained():
    traced = trace(
        lambda w: (w + jnp.arange(8.0), jnp.sum(w)),
        (jax.ShapeDtypeStruct((4, 8), jnp.float32),),
        {},
    )
    with pytest.raises(OptionsError, match="made anew wherever it is used"):
        compile_plan(
            traced.read(),
            traced.roles,
            parse_cluster("cpu:4"),
            options=Options(constraints={"iota*": (("x",),)}),
        )


def test_axes_of_one_dim_come_in_the_order_of_the_mesh(plan_with):
    with pytest.raises(OptionsError, match="no way to compute w1") as refusal:
        plan_with({"w1": (("model", "data"), ())})
    assert refusal.value.where == "constraint w1"


def test_what_cannot_be_computed_so_is_refused_with_the_constraint():
    # The dim that is sorted stays whole.
    traced = trace(
        lambda w, x: (w * 0.9, jnp.sort(x @ w, axis=1)),
        tuple(jax.ShapeDtypeStruct((8, 8), jnp.float32) for _ in range(2)),
        {},
    )
    with pytest.raises(OptionsError) as refusal:
        compile_plan(
            traced.read(),
            traced.roles,
            parse_cluster("cpu:4"),
            options=Options(mesh=Mesh.parse("4"), constraints={"sort*": ((), ("x",))}),
        )
    assert "no way to compute sort" in refusal.value.problem
    assert refusal.value.where == "constraint sort*"
