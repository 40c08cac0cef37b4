"""A higher level is never worse."""

from itertools import pairwise

import pytest

from tepdist import zoo
from tepdist.cluster.presets import parse_cluster
from tepdist.errors import NoPlanFits
from tepdist.frontends.jax import trace
from tepdist.plans.types import Options
from tepdist.search.spmd import search
from tepdist.sharding import Mesh

LEVELS = ("O1", "O2", "O3")
NUM_SEEDS = 24
SPECS = (
    "mlp:layers=2,width=64,batch=64",
    "moe_layer",
)
# Of the memory of the best plan without a limit.
SHARES = (None, 0.9)


def found_at(level, program, roles, **options):
    """Cost, bound and memory of what a level finds; None if nothing fits."""
    try:
        found = search(
            program,
            roles,
            parse_cluster("cpu:4"),
            options=Options(level=level, **options),
            progress=lambda *_: None,
        )
    except NoPlanFits:
        return None
    return found.record, found.stage.memory.peak


def assert_never_worse(program, roles, **options):
    _, peak = found_at("O2", program, roles, **options)
    for share in SHARES:
        limit = None if share is None else int(share * peak)
        found = [
            found_at(level, program, roles, memory_limit_bytes=limit, **options)
            for level in LEVELS
        ]
        for lower, higher in pairwise(found):
            if lower is None:
                continue
            assert higher is not None
            assert higher[0].cost_s <= lower[0].cost_s
            assert lower[0].lower_bound_s <= higher[0].cost_s * (1 + 1e-6)
            assert limit is None or higher[1] <= limit


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_a_higher_level_is_never_worse_on_small_programs(seed, tiny_program):
    assert_never_worse(*tiny_program(seed))


@pytest.mark.parametrize("mesh", [None, "4"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_higher_level_is_never_worse_on_models(spec, mesh):
    built = zoo.build(spec)
    traced = trace(built.train_step, (built.state, built.batch), {})
    forced = None if mesh is None else Mesh.parse(mesh)
    assert_never_worse(traced.read(), traced.roles, mesh=forced)
