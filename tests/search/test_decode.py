"""From assignments to shardings: each value lies as whoever makes and reads it says."""

import random

import jax
import jax.numpy as jnp
import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import trace
from tepdist.plans.types import Options
from tepdist.search.decode import decode
from tepdist.sharding import Mesh

SEEDS = range(24)
MATRIX = jax.ShapeDtypeStruct((64, 64), jnp.float32)


def any_assignment(space, seed):
    dice = random.Random(seed)
    return tuple(dice.randrange(len(costs)) for costs in space.network.unary)


@pytest.mark.parametrize("mesh", ["2", "4", "2x2"])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_sharding_divides_its_tensor(tiny_program, space_of, seed, mesh):
    program, roles = tiny_program(seed)
    grid = Mesh.parse(mesh)
    space = space_of(program, roles, grid)
    for number in range(10):
        decoded = decode(space.structure, space.problem, any_assignment(space, number))
        for value, sharding in zip(program.values, decoded.values, strict=True):
            sharding.local_shape(value.shape, grid)
        for op, wanted in zip(program.ops, decoded.operands, strict=True):
            for operand, sharding in zip(op.operands, wanted, strict=True):
                sharding.local_shape(program.values[operand].shape, grid)


@pytest.mark.parametrize("seed", SEEDS)
def test_state_comes_out_as_it_went_in(tiny_program, space_of, seed):
    program, roles = tiny_program(seed)
    space = space_of(program, roles, Mesh.parse("2x2"))
    decoded = decode(space.structure, space.problem, any_assignment(space, seed))
    assert_state_stays(program, roles, decoded.values, decoded.results)


def assert_state_stays(program, roles, values, results):
    lies = {
        role.name: values[value]
        for role, value in zip(roles.arguments, program.arguments, strict=True)
    }
    for role, sharding in zip(roles.results, results, strict=True):
        if role.replaces is not None:
            assert sharding == lies[role.replaces]


def swap(state, x):
    return {"a": state["b"], "b": state["a"]}, jnp.sum(x)


def copy(state, x):
    new = state["a"] + x
    return {"a": new, "b": new}, jnp.sum(x)


def keep(state, x):
    return state, jnp.sum(x @ state["a"])


@pytest.mark.parametrize("step", [swap, copy, keep])
def test_state_that_is_swapped_copied_or_kept_comes_out_as_it_went_in(step):
    traced = trace(step, ({"a": MATRIX, "b": MATRIX}, MATRIX), {})
    program = traced.read()
    wanted = {"a": (("x",), ()), "b": ((), ("x",))}
    plan = compile_plan(
        program,
        traced.roles,
        parse_cluster("cpu:4"),
        options=Options(mesh=Mesh.parse("4"), constraints=wanted),
    )
    (stage,) = plan.stages
    assert_state_stays(program, traced.roles, stage.values, stage.results)
    assert plan.argument_shardings()["a"].dims == wanted["a"]
    assert plan.argument_shardings()["b"].dims == wanted["b"]
