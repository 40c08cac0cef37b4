"""Each op, sharded in every way that its rule leaves free, moves what is priced.

XLA gathers the operands of some ops whatever is stated about them, and of others
along some dims. Their rules must not leave such factors free, or the op must go to
each device with its shards.
"""

from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import trace
from tepdist.lowering.compiled import bytes_by_kind
from tepdist.plans.types import Options
from tepdist.runtime.local import Executable
from tepdist.sharding import Mesh

from .every_strategy import plans_by_strategy
from .one_op import OPS, OneOp
from .uneven_op import UNEVEN_OPS

# Of many ops, or compiled for seconds.
LONG = ("determinant", "inverse", "lu", "max-pool-slope", "random-normal", "solve")
# Of uneven ones, what a model that predicts words is made of.
COMMON = (
    "attention",
    "convolution",
    "entropy",
    "gather-rows",
    "log-softmax",
    "loop",
    "matmul",
    "max",
    "scatter-add",
    "sum",
    "sum-of-products",
    "tied",
)
CASES = [
    pytest.param(
        mesh,
        name,
        id=f"{name}-{mesh}",
        marks=[pytest.mark.slow] if mesh != "4" or name in LONG else [],
    )
    for mesh in ("4", "2x4")
    for name in OPS
    if mesh == "4" or name not in LONG
]


@pytest.mark.parametrize(("mesh", "name"), CASES)
def test_an_op_sharded_in_any_way_moves_what_is_priced(mesh: str, name: str) -> None:
    assert list(differences(OPS[name], Mesh.parse(mesh))) == []


UNEVEN_CASES = [
    pytest.param(
        mesh,
        name,
        id=f"{name}-{mesh}",
        marks=[] if mesh == "4" and name in COMMON else [pytest.mark.slow],
    )
    for mesh in ("4", "2x4")
    for name in UNEVEN_OPS
]


@pytest.mark.parametrize(("mesh", "name"), UNEVEN_CASES)
def test_an_op_cut_into_unequal_parts_moves_what_is_priced(mesh: str, name: str):
    cut: list[str] = []
    assert list(differences(UNEVEN_OPS[name], Mesh.parse(mesh), cut)) == []
    assert cut


def differences(case: OneOp, mesh: Mesh, uneven: list[str] | None = None):
    """What goes wrong under each strategy.

    Args:
        case: What is run.
        mesh: To run it on.
        uneven: Takes the strategies under which some value has unequal parts.
    """
    arguments = case.arguments()
    traced = trace(case.fn, arguments, {}, state_argnums=(), platform=case.platform)
    cluster = parse_cluster(f"cpu:{mesh.num_devices}")
    plan = compile_plan(
        traced.read(),
        traced.roles,
        replace(cluster, scatters_sums=True),
        options=Options(mesh=mesh, level="O1"),
    )
    wanted = [np.asarray(x) for x in jax.tree.leaves(jax.jit(case.fn)(*arguments))]
    for label, sharded in plans_by_strategy(plan):
        (stage,) = sharded.stages
        lies = zip(stage.values, sharded.program.values, strict=True)
        if uneven is not None and any(s.uneven_dims(v.shape, mesh) for s, v in lies):
            uneven.append(label)
        executable = Executable(sharded)
        priced: Counter[str] = Counter()
        for collective in stage.collectives:
            priced[collective.kind] += collective.bytes_ * collective.count
        compiled = bytes_by_kind(executable.hlo_text()[0])
        if priced != compiled:
            yield f"{label}: {dict(priced)} priced, {compiled} compiled"
        got = executable([executable.put(i, x) for i, x in enumerate(arguments)])
        for one, other in zip(wanted, got, strict=True):
            if not np.allclose(one, np.asarray(other), rtol=1e-3, atol=1e-3):
                yield f"{label}: other numbers"
