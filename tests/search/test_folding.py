"""A plan found on a folded program is the one found on the whole."""

import pytest

from tepdist.analysis.folding import Folded
from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.plans.types import Options
from tepdist.search import structure
from tepdist.search.alternatives import find_alternatives
from tepdist.sharding import Mesh

SPECS = {
    "mlp": "mlp:layers=20,width=64,batch=256",
    "gpt": "gpt:layers=16,hidden=64,heads=4,seq=16,vocab=64,batch=8",
    "moe": "moe:layers=24,hidden=16,inner=32,heads=2,seq=8,vocab=16,batch=4,experts=4",
}
# What is allocated is carried on from fewer layers.
CLOSE = 0.03


@pytest.fixture(scope="module", params=SPECS.values(), ids=SPECS)
def traced(request, trace_step):
    return trace_step(request.param)


@pytest.fixture
def planned(monkeypatch):
    """Plans with and without folding; repeated layers decide together in both."""

    def plan(traced, cluster, *, folds, **options):
        monkeypatch.setattr(structure, "TIE_ABOVE_GROUPS", 0)
        if not folds:
            monkeypatch.setattr(
                structure, "fold", lambda program, roles, _: Folded.none(program, roles)
            )
        return compile_plan(
            traced.read(),
            traced.roles,
            parse_cluster(cluster),
            options=Options(level="O1", **options),
        )

    return plan


@pytest.mark.parametrize(
    ("cluster", "options"),
    [
        ("cpu:4", {"mesh": Mesh.parse("2x2")}),
        ("2x4xa100-80g", {}),
        ("cpu:4", {"mesh": Mesh.parse("4"), "zero": 3}),
    ],
    ids=["mesh", "network", "zero"],
)
def test_folding_changes_no_plan(traced, planned, cluster, options):
    folded = planned(traced, cluster, folds=True, **options)
    whole = planned(traced, cluster, folds=False, **options)
    assert folded.search.cost_s == pytest.approx(whole.search.cost_s, rel=1e-9)
    assert folded.search.lower_bound_s == pytest.approx(whole.search.lower_bound_s)
    (stage,), (other,) = folded.stages, whole.stages
    assert stage.mesh == other.mesh
    assert stage.values == other.values
    assert stage.operands == other.operands
    assert stage.results == other.results
    assert stage.memory.peak == other.memory.peak
    assert stage.memory.activations == other.memory.activations
    assert stage.memory.allocated == pytest.approx(other.memory.allocated, rel=CLOSE)
    assert sorted(map(priced, stage.collectives)) == sorted(
        map(priced, other.collectives)
    )


def test_alternatives_of_a_layer_that_is_left_out_are_known(planned, trace_step):
    traced = trace_step(SPECS["mlp"])
    plan = planned(traced, "cpu:4", folds=True, mesh=Mesh.parse("2x2"))
    inner, other = (find_alternatives(plan, f"params/{at}/w") for at in (9, 11))
    assert len(inner) > 1
    assert inner == other


def priced(collective):
    return (
        collective.op,
        collective.kind,
        collective.value,
        collective.mesh_axes,
        collective.bytes_,
        collective.count,
        f"{collective.seconds:.9g}",
    )
