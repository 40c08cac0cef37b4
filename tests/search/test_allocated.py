"""What a deep program is allocated, carried on from fewer layers."""

import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.cost.footprint import footprint_bytes
from tepdist.plans.types import Options
from tepdist.search import staging
from tepdist.search.allocated import allocated_bytes

DEEP = {
    "mlp": "mlp:layers=120,width=64,batch=256",
    "transformer": "transformer:layers=90,hidden=32,heads=4,batch=16",
}


@pytest.fixture
def counted(monkeypatch):
    """Pairs of what was carried on, and what the whole program comes to."""
    found = []

    def both(folded, placed, allocator):
        assert folded.gaps
        found.append(
            (
                allocated_bytes(folded, placed, allocator),
                footprint_bytes(placed, allocator),
            )
        )
        return found[-1][0]

    monkeypatch.setattr(staging, "allocated_bytes", both)
    return found


@pytest.mark.parametrize("cluster", ["8xa100-80g", "8xh100", "cpu:8"])
@pytest.mark.parametrize("spec", DEEP.values(), ids=DEEP)
def test_fewer_layers_tell_what_all_are_allocated(spec, cluster, counted, trace_step):
    traced = trace_step(spec)
    compile_plan(
        traced.read(),
        traced.roles,
        parse_cluster(cluster),
        options=Options(level="O1"),
    )
    assert counted
    for carried_on, whole in counted:
        assert carried_on == pytest.approx(whole, rel=0.03)
