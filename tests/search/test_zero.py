"""Stages of ZeRO: what of the state is sharded where its gradient is summed."""

import dataclasses
from collections import Counter

import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import trace
from tepdist.plans.types import Options, Plan
from tepdist.program.roles import Role
from tepdist.report.groups import whole_state
from tepdist.report.terminal import as_text, plan_screen
from tepdist.sharding import Mesh
from tepdist.zoo import build

# Wide batches: data parallelism is what the search chooses.
MLP = "mlp:layers=3,width=64,batch=4096"
GPT = "gpt:tiny:batch=512"
SCANNED = GPT + ",scan=true"
DEVICES = 8


@pytest.fixture(scope="module", params=[MLP, GPT, SCANNED])
def model(request):
    built = build(request.param)
    traced = trace(built.train_step, (built.state, built.batch), {})
    return traced.read(), traced.roles


def planned(model, zero) -> Plan:
    program, roles = model
    cluster = dataclasses.replace(parse_cluster(f"cpu:{DEVICES}"), scatters_sums=True)
    return compile_plan(
        program,
        roles,
        cluster,
        options=Options(level="O1", mesh=Mesh.parse(str(DEVICES)), zero=zero),
    )


def state_bytes(plan: Plan, *, optimizer: bool) -> tuple[int, int]:
    """Bytes of a device, and of all, of what only the optimizer reads or the rest."""
    (stage,) = plan.stages
    local = whole = 0
    for role, index in zip(plan.roles.arguments, plan.program.arguments, strict=True):
        value = plan.program.values[index]
        if role.role is not Role.STATE or not value.shape:
            continue
        if ("/mu/" in role.name or "/nu/" in role.name) != optimizer:
            continue
        whole += value.bytes_
        local += value.bytes_ // stage.values[index].num_shards(stage.mesh)
    return local, whole


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_what_no_axis_can_shard_is_said_to_lie_whole(zero) -> None:
    built = build("mlp:layers=2,width=12,batch=64")
    traced = trace(built.train_step, (built.state, built.batch), {})
    plan = planned((traced.read(), traced.roles), zero)
    layers = 2 * (12 * 12 + 12) * 4
    said = sum(group.bytes_per_device for group in whole_state(plan))
    assert said == layers * (3 if zero == 3 else 2)
    assert f"zero={zero} leaves" in as_text(plan_screen(plan))


def test_where_all_state_is_sharded_none_is_said_to_lie_whole(model) -> None:
    plan = planned(model, 3)
    assert not whole_state(plan)
    assert "leaves" not in as_text(plan_screen(plan))


def gradients(plan: Plan) -> Counter:
    found: Counter = Counter()
    for collective in plan.stages[0].collectives:
        if collective.phase == "backward":
            found[collective.kind] += collective.bytes_ * collective.count
    return found


def test_stage_0_keeps_all_state_whole(model):
    plan = planned(model, 0)
    for optimizer in (False, True):
        local, whole = state_bytes(plan, optimizer=optimizer)
        assert local == whole
    assert "reduce_scatter" not in gradients(plan)


def test_stage_1_shards_what_the_optimizer_reads(model):
    plan = planned(model, 1)
    local, whole = state_bytes(plan, optimizer=True)
    assert local == whole // DEVICES
    local, whole = state_bytes(plan, optimizer=False)
    assert local == whole


def test_stage_2_scatters_gradients_too(model):
    plan = planned(model, 2)
    moved = gradients(plan)
    assert moved["reduce_scatter"] > 0
    local, whole = state_bytes(plan, optimizer=True)
    assert local == whole // DEVICES


def test_stage_3_shards_everything(model):
    plan = planned(model, 3)
    for optimizer in (False, True):
        local, whole = state_bytes(plan, optimizer=optimizer)
        assert local == whole // DEVICES
    _, parameters = state_bytes(plan, optimizer=False)
    (stage,) = plan.stages
    moved: Counter = Counter()
    for each in stage.collectives:
        moved[each.kind] += each.bytes_ * each.count
    # Each gradient is scattered once, each parameter gathered once.
    assert moved["reduce_scatter"] == pytest.approx(parameters, rel=0.01)
    assert moved["all_gather"] == pytest.approx(parameters, rel=0.01)
    assert moved["all_reduce"] < 0.01 * parameters


def test_more_sharding_is_no_faster_than_the_bound_of_all_plans(model):
    free = planned(model, None)
    bound = free.search.lower_bound_s
    assert bound is not None
    for zero in range(4):
        forced = planned(model, zero)
        assert forced.search.cost_s >= bound * (1 - 1e-9)
        assert dataclasses.replace(forced.options, zero=None) == free.options
