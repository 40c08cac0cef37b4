"""Misuse from Python: a `TepdistError` of problem, place and hint, a line each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tepdist
from tepdist.errors import (
    ClusterError,
    OptionsError,
    PlanError,
    ProgramError,
    ShardingError,
    StateConsumed,
    StateError,
)

STATE, BATCH = np.ones((8, 4), np.float32), np.ones((8, 4), np.float32)


def train_step(state, batch):
    return state - 0.1 * batch, (state * batch).sum()


def branch(state, flag):
    return state if flag else -state


def make_plan():
    return tepdist.plan(train_step, STATE, BATCH, cluster="cpu:4")


def make_step(fn=train_step, **options):
    return tepdist.parallelize(fn, cluster="cpu:4", **options)


def constrained_loss(state, batch):
    return make_plan().constrain(train_step)(state, batch)[1]


def consumed_state():
    step = make_step()
    state, _ = step(STATE, BATCH)
    step(state, BATCH)
    step(state, BATCH)


def other_state():
    step = make_step()
    step(STATE, BATCH)
    step(STATE[:4], BATCH[:4])


def mesh_of(name):
    return jax.make_mesh((4,), (name,))


MISUSE = {
    "unknown option": (lambda: make_step(levle="O1"), OptionsError),
    "level": (lambda: make_step(level="O9"), OptionsError),
    "time limit": (lambda: make_step(time_limit="5"), OptionsError),
    "donate": (lambda: make_step(donate="yes"), OptionsError),
    "exact": (lambda: make_step(exact="no"), OptionsError),
    "mesh": (lambda: make_step(mesh="3x3")(STATE, BATCH), OptionsError),
    "mesh text": (lambda: make_step(mesh="3y3"), OptionsError),
    "memory text": (lambda: make_step(memory_limit="huge"), OptionsError),
    "stages": (lambda: make_step(num_stages=2)(STATE, BATCH), OptionsError),
    "constraint": (lambda: make_step(constraints={"w": 3}), OptionsError),
    "stranger": (
        lambda: make_step(constraints={"stranger": ("x",)})(STATE, BATCH),
        OptionsError,
    ),
    "preset": (lambda: tepdist.parallelize(train_step, cluster="moon:8"), ClusterError),
    "platform": (
        lambda: tepdist.parallelize(train_step, cluster="8xh100"),
        ClusterError,
    ),
    "count": (lambda: tepdist.parallelize(train_step, cluster="cpu:0"), ClusterError),
    "too many": (
        lambda: tepdist.parallelize(train_step, cluster="cpu:512"),
        ClusterError,
    ),
    "cluster of a server": (
        lambda: tepdist.connect("127.0.0.1:1", cluster="cpu:8"),
        OptionsError,
    ),
    "no plan yet": (lambda: make_step().plan, PlanError),
    "no file": (lambda: tepdist.Plan.load("none.json"), PlanError),
    "no arguments": (lambda: make_step(lambda: jnp.ones(3))(), OptionsError),
    "no second argument": (
        lambda: make_step(lambda x: x, state_argnums=1)(STATE),
        OptionsError,
    ),
    "text": (lambda: make_step()(STATE, "text"), ProgramError),
    "unhashable": (
        lambda: make_step(static_argnums=1)(STATE, [1, 2]),
        OptionsError,
    ),
    "side effects": (
        lambda: make_step(lambda x: (jax.debug.print("{}", x), x)[1])(STATE),
        ProgramError,
    ),
    "value": (lambda: make_step(branch)(STATE, True), ProgramError),
    "jitted statics": (
        lambda: make_step(jax.jit(branch, static_argnums=1))(STATE, True),
        ProgramError,
    ),
    "consumed": (consumed_state, StateConsumed),
    "other state": (other_state, StateError),
    "jit": (lambda: jax.jit(make_step())(STATE, BATCH), ProgramError),
    "grad": (
        lambda: jax.grad(lambda state: make_step()(state, BATCH)[1])(STATE),
        ProgramError,
    ),
    "vmap": (lambda: jax.vmap(make_step())(STATE, BATCH), ProgramError),
    "constrain another": (
        lambda: make_plan().constrain(lambda *args: args),
        PlanError,
    ),
    "constrained, eager": (lambda: constrained_loss(STATE, BATCH), PlanError),
    "constrained, grad": (
        lambda: jax.jit(jax.grad(constrained_loss))(STATE, BATCH),
        PlanError,
    ),
    "constrained, vmap": (
        lambda: jax.jit(jax.vmap(constrained_loss))(STATE[None], BATCH[None]),
        PlanError,
    ),
    "constrained, shape": (
        lambda: jax.jit(constrained_loss)(STATE[:4], BATCH[:4]),
        PlanError,
    ),
    "constrained, tree": (
        lambda: jax.jit(constrained_loss)([STATE], BATCH),
        PlanError,
    ),
    "another mesh": (lambda: make_plan().in_shardings(mesh_of("other")), ShardingError),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_a_problem_a_place_and_a_hint(name):
    misuse, kind = MISUSE[name]
    with pytest.raises(kind) as caught:
        misuse()
    for part in (caught.value.problem, caught.value.where, caught.value.hint):
        assert part
        assert "\n" not in part


def test_a_planned_step_is_not_traced_either():
    step = make_step(donate=False)
    step(STATE, BATCH)
    for transformed in (jax.jit(step), jax.vmap(step)):
        with pytest.raises(ProgramError, match="cannot be traced by JAX"):
            transformed(STATE, BATCH)
    _, loss = step(STATE, BATCH)
    assert loss == train_step(STATE, BATCH)[1]


def test_too_few_devices_are_answered_with_the_flag():
    with pytest.raises(ClusterError) as caught:
        tepdist.parallelize(train_step, cluster="cpu:512")
    assert "--xla_force_host_platform_device_count=512" in caught.value.hint
