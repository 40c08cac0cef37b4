"""Repeated layers share decisions, and the plan is as good as if they did not."""

import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.plans.types import Options
from tepdist.search import structure
from tepdist.sharding import Mesh

CPU = parse_cluster("cpu:4").device

SPECS = {
    "narrow_mlp": "mlp:layers=16,width=64,batch=256",
    "wide_mlp": "mlp:layers=16,width=256,batch=32",
    "gpt": "gpt:layers=6,hidden=64,heads=4,seq=16,vocab=64,batch=8",
}
# Both ends of a stack may do without what its middle needs.
CLOSE = 1.001


@pytest.fixture(scope="module", params=SPECS.values(), ids=SPECS)
def traced(request, trace_step):
    return trace_step(request.param)


@pytest.fixture
def planned(monkeypatch):
    """Plans with and without layers that share decisions."""

    def plan(traced, mesh, *, tied, constraints=None):
        above = 0 if tied else 1 << 30
        monkeypatch.setattr(structure, "TIE_ABOVE_GROUPS", above)
        grid = Mesh.parse(mesh)
        return compile_plan(
            traced.read(),
            traced.roles,
            parse_cluster(f"cpu:{grid.num_devices}"),
            options=Options(mesh=grid, constraints=constraints or {}),
        )

    return plan


def num_variables(traced, monkeypatch, *, tied):
    monkeypatch.setattr(structure, "TIE_ABOVE_GROUPS", 0 if tied else 1 << 30)
    return len(
        structure.build_structure(traced.read(), traced.roles, {}, device=CPU).deciders
    )


def test_layers_share_variables(traced, monkeypatch):
    tied = num_variables(traced, monkeypatch, tied=True)
    assert tied < num_variables(traced, monkeypatch, tied=False) / 1.5


def test_groups_that_share_a_variable_have_the_same_tensors(traced, monkeypatch):
    monkeypatch.setattr(structure, "TIE_ABOVE_GROUPS", 0)
    found = structure.build_structure(traced.read(), traced.roles, {}, device=CPU)
    program = found.program
    for group, variable in zip(found.groups, found.variable_of, strict=True):
        decider = found.groups[found.deciders[variable]]
        assert group.sizes == decider.sizes
        assert group.reduction == decider.reduction
        assert group.blocked == decider.blocked
        for mine, other in zip(group.outputs, decider.outputs, strict=True):
            assert mine.dims == other.dims
            assert program.values[mine.value].shape == program.values[other.value].shape


@pytest.mark.parametrize("mesh", ["4", "2x2"])
def test_a_tied_plan_costs_what_an_untied_one_costs(traced, planned, mesh):
    tied = planned(traced, mesh, tied=True).search
    untied = planned(traced, mesh, tied=False).search
    assert untied.lower_bound_s * (1 - 1e-6) <= tied.cost_s <= untied.cost_s * CLOSE


def test_a_constraint_on_one_layer_leaves_the_others_alone(planned, trace_step):
    traced = trace_step(SPECS["narrow_mlp"])
    free = planned(traced, "4", tied=True).argument_shardings()
    wanted = {"params/7/w": (("x",), ())}
    plan = planned(traced, "4", tied=True, constraints=wanted)
    lying = plan.argument_shardings()
    assert lying["params/7/w"].dims == wanted["params/7/w"]
    for layer in (0, 3, 5, 9, 11):
        assert lying[f"params/{layer}/w"] == free[f"params/{layer}/w"]
