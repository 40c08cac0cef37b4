"""Stages of ZeRO as compiled: what is priced is what each device sends and holds."""

from collections import Counter

import pytest

from tepdist import zoo
from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import trace
from tepdist.lowering.compiled import bytes_by_kind
from tepdist.plans.types import Options, Plan
from tepdist.program.roles import Role
from tepdist.runtime.deviceless import compile_for_cluster
from tepdist.sharding import Mesh

from .test_verification import needs_plugin

DEVICES = 8
# Wide batches: to gather a parameter takes less than to gather what it multiplies.
MODELS = ("mlp:layers=3,width=64,batch=4096", "gpt:tiny:batch=512")


def planned(model: str, cluster: str, stage: int) -> Plan:
    built = zoo.build(model)
    traced = trace(built.train_step, (built.state, built.batch), {})
    options = Options(level="O1", mesh=Mesh.parse(str(DEVICES)), zero=stage)
    return compile_plan(
        traced.read(), traced.roles, parse_cluster(cluster), options=options
    )


def state_bytes(plan: Plan) -> tuple[int, int, int]:
    """Bytes of the state of a device, of all of it, and of the parameters in it."""
    (stage,) = plan.stages
    local = whole = parameters = 0
    for role, index in zip(plan.roles.arguments, plan.program.arguments, strict=True):
        value = plan.program.values[index]
        if role.role is Role.STATE and value.shape:
            whole += value.bytes_
            local += value.bytes_ // stage.values[index].num_shards(stage.mesh)
            if "/mu/" not in role.name and "/nu/" not in role.name:
                parameters += value.bytes_
    return local, whole, parameters


def assert_compiled_as_priced(plan: Plan, stage: int) -> None:
    priced: Counter[str] = Counter()
    for each in plan.stages[0].collectives:
        priced[each.kind] += each.bytes_ * each.count
    assert bytes_by_kind(compile_for_cluster(plan).as_text()) == priced
    local, whole, parameters = state_bytes(plan)
    if stage == 0:
        assert local == whole
        assert priced["all_reduce"] == pytest.approx(parameters, rel=0.02)
        return
    if stage > 1:
        assert priced["reduce_scatter"] == pytest.approx(parameters, rel=0.02)
        assert priced["all_reduce"] < 0.02 * parameters
    if stage == 3:
        assert local == whole // DEVICES
    else:
        assert local == parameters + (whole - parameters) // DEVICES
    # Tokens may be gathered too, for the gradient of an embedding cut in columns.
    tokens = max(
        plan.program.values[index].bytes_
        for role, index in zip(
            plan.roles.arguments, plan.program.arguments, strict=True
        )
        if role.role is Role.BATCH
    )
    gathered = priced["all_gather"]
    assert 0.98 * parameters <= gathered <= 1.02 * parameters + tokens


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("model", MODELS)
def test_zero_on_cpus(model: str, stage: int) -> None:
    assert_compiled_as_priced(planned(model, f"cpu:{DEVICES}", stage), stage)


@pytest.mark.slow
@needs_plugin
@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("model", MODELS)
def test_zero_on_gpus(model: str, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    assert_compiled_as_priced(planned(model, f"{DEVICES}xa100-80g", stage), stage)
