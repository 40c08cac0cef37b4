"""A memory limit is kept, or refused with what binds and by how much.

The yardstick is the state alone, cut into as many shards as there are devices.
"""

import math
import re
from dataclasses import dataclass

import pytest

from tepdist import zoo
from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.errors import NoPlanFits
from tepdist.frontends.jax import Traced, trace
from tepdist.plans.types import Options, Plan
from tepdist.program.graph import Program
from tepdist.program.roles import Role
from tepdist.sharding import Mesh

NUM_DEVICES = 8
SMALL = "gpt:layers=6,hidden=256,heads=8,seq=8,vocab=64,batch=2,remat=full"
# Data parallel if it can be: the limit has to cut its state.
BINDING = "gpt:layers=4,hidden=64,heads=8,seq=4,vocab=64,batch=32,remat=full"
UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Trained:
    """A program and the bytes of its state on one of all devices, fully sharded."""

    traced: Traced
    program: Program
    state_share: float

    def plan(
        self,
        memory_limit_bytes: int | None,
        *,
        level: str = "O2",
        mesh: Mesh | None = None,
    ) -> Plan:
        return compile_plan(
            self.program,
            self.traced.roles,
            parse_cluster(f"cpu:{NUM_DEVICES}"),
            options=Options(
                level=level, mesh=mesh, memory_limit_bytes=memory_limit_bytes
            ),
        )


def build(spec: str) -> Trained:
    built = zoo.build(spec)
    traced = trace(built.train_step, (built.state, built.batch), {}, name=spec)
    program = traced.read()
    state = sum(
        program.values[value].bytes_
        for value, role in zip(program.arguments, traced.roles.arguments, strict=True)
        if role.role is Role.STATE
    )
    return Trained(traced, program, state / NUM_DEVICES)


@pytest.fixture(scope="module")
def small() -> Trained:
    return build(SMALL)


def state_bytes(plan: Plan) -> float:
    """Bytes of the state on one device, as its shardings say."""
    (stage,) = plan.stages
    total = 0.0
    for value, role in zip(plan.program.arguments, plan.roles.arguments, strict=True):
        if role.role is Role.STATE:
            described = plan.program.values[value]
            local = stage.values[value].local_shape(described.shape, stage.mesh)
            total += described.bytes_ * math.prod(local) / described.num_elements
    return total


def assert_kept(plan: Plan, limit: int) -> None:
    assert plan.predicted.memory_per_device_bytes <= limit
    assert state_bytes(plan) <= plan.predicted.memory_per_device_bytes


def amounts(text: str) -> list[float]:
    found = re.findall(r"([\d.]+) (GiB|MiB|KiB|bytes)", text)
    return [float(number) * UNITS[unit] for number, unit in found]


def assert_refused(trained: Trained, limit: int) -> None:
    with pytest.raises(NoPlanFits) as refusal:
        trained.plan(limit)
    assert "memory limit" in refusal.value.problem
    named, needed, missing = amounts(refusal.value.problem)
    assert named == pytest.approx(limit, rel=1e-3)
    assert needed >= trained.state_share
    assert missing == pytest.approx(needed - named, rel=0.01)
    assert refusal.value.hint is not None


def test_a_tenth_more_than_the_sharded_state_is_enough(small):
    limit = int(1.1 * small.state_share)
    assert_kept(small.plan(limit), limit)


def test_a_tenth_less_than_the_sharded_state_is_refused(small):
    assert_refused(small, int(0.9 * small.state_share))


def test_descent_alone_keeps_the_limit_too(small):
    limit = int(1.5 * small.state_share)
    assert_kept(small.plan(limit, level="O1"), limit)


def test_a_limit_that_binds_cuts_the_state_and_costs_time():
    trained, mesh = build(BINDING), Mesh.parse(str(NUM_DEVICES))
    free = trained.plan(None, mesh=mesh)
    limit = int(2 * trained.state_share)
    limited = trained.plan(limit, mesh=mesh)
    assert free.predicted.memory_per_device_bytes > limit
    assert_kept(limited, limit)
    assert state_bytes(limited) < state_bytes(free)
    assert limited.search.cost_s > free.search.cost_s
    assert limited.search.lower_bound_s >= free.search.lower_bound_s


@pytest.mark.slow
def test_the_limit_of_a_large_program_is_kept_or_refused():
    large = build("gpt:1.3b")
    limit = int(1.1 * large.state_share)
    assert_kept(large.plan(limit), limit)
    assert_refused(large, int(0.9 * large.state_share))
