"""Products that are added are reduced once, however the sum is sharded."""

from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import trace
from tepdist.lowering.compiled import bytes_by_kind
from tepdist.plans.types import Options
from tepdist.program.sums import KIND
from tepdist.runtime.local import Executable
from tepdist.sharding import Mesh

from .every_strategy import plans_by_strategy


def heads(dq, wq, dk, wk, dv, wv, residual):
    """Input gradient of an attention with fewer keys than queries, post-norm."""
    total = jnp.einsum("bshd,ehd->bse", dv, wv)
    total = total + jnp.einsum("bshd,ehd->bse", dk, wk)
    return residual + total + jnp.einsum("bshd,ehd->bse", dq, wq)


def embedded(tokens, updates, x, logits):
    """Gradient of an embedding used at both ends; some tokens are out of its range."""
    rows = jnp.zeros((16, updates.shape[-1])).at[tokens].add(updates, mode="drop")
    return rows + jnp.einsum("bsv,bsd->vd", logits, x)


def embedded_in_bytes(tokens, updates, x, logits):
    return embedded(tokens.astype(jnp.int8), updates, x, logits)


CASES = {
    "embedding": (embedded, [(4, 8), (4, 8, 8), (4, 8, 8), (4, 8, 16)]),
    "embedding-int8": (embedded_in_bytes, [(4, 8), (4, 8, 8), (4, 8, 8), (4, 8, 16)]),
    "two": (lambda a, b, c, d: a @ b + c @ d, [(8, 16), (16, 8), (8, 24), (24, 8)]),
    "of-integers": (
        lambda a, b, c, d: a @ b + c @ d,
        [(8, 16), (16, 8), (8, 24), (24, 8)],
    ),
    "heads": (
        heads,
        [(8, 4, 8, 4), (16, 8, 4), *[(8, 4, 4, 4), (16, 4, 4)] * 2, (8, 4, 16)],
    ),
    "transposed": (
        lambda a, b, c, d: (a @ b).T + c @ d,
        [(8, 16), (16, 8), (8, 16), (16, 8)],
    ),
    "batched": (
        lambda a, b, c, d: (
            jnp.einsum("bik,bkj->bij", a, b) + jnp.einsum("bki,bkj->bij", c, d)
        ),
        [(4, 8, 16), (4, 16, 8), (4, 8, 8), (4, 8, 8)],
    ),
    "one-operand-twice": (
        lambda a, b, c: a @ b + a @ c,
        [(8, 16), (16, 8), (16, 8)],
    ),
}


def planned(name: str, *, scatters: bool, mesh: str):
    fn, shapes = CASES[name]
    rng = np.random.default_rng(0)
    dtype = np.int32 if name == "of-integers" else np.float32
    arguments = [(4 * rng.normal(size=shape)).astype(dtype) for shape in shapes]
    if name.startswith("embedding"):
        arguments[0] = rng.integers(-4, 20, shapes[0]).astype(np.int32)
    traced = trace(fn, arguments, {}, state_argnums=(), platform="cpu")
    shape = Mesh.parse(mesh)
    cluster = parse_cluster(f"cpu:{shape.num_devices}")
    plan = compile_plan(
        traced.read(),
        traced.roles,
        replace(cluster, scatters_sums=scatters),
        options=Options(mesh=shape, level="O1"),
    )
    return fn, arguments, plan


@pytest.mark.parametrize("scatters", [False, True])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mesh", ["4", pytest.param("2x2", marks=pytest.mark.slow)])
def test_a_sum_is_one_op_and_moves_what_is_priced(mesh, name, scatters):
    fn, arguments, plan = planned(name, scatters=scatters, mesh=mesh)
    kinds = [op.kind for op in plan.program.ops]
    assert kinds.count(KIND) == 1
    assert "stablehlo.dot_general" not in kinds
    (wanted,) = jax.tree.leaves(jax.jit(fn)(*arguments))
    most_reduced = 0
    for label, sharded in plans_by_strategy(plan):
        executable = Executable(sharded)
        priced: Counter[str] = Counter()
        for collective in sharded.stages[0].collectives:
            priced[collective.kind] += collective.bytes_ * collective.count
        assert bytes_by_kind(executable.hlo_text()[0]) == priced, label
        most_reduced = max(most_reduced, priced["all_reduce"])
        (got,) = executable([executable.put(i, x) for i, x in enumerate(arguments)])
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4, err_msg=label)
    # Two contracted dims over an axis each are reduced one after the other.
    assert 0 < most_reduced <= 2 * wanted.nbytes


def test_heads_that_share_no_cut_are_left_alone():
    fn = lambda a, b, c, d: a @ b + c @ d  # noqa: E731
    shapes = [(8, 3), (3, 8), (8, 5), (5, 8)]
    arguments = [np.ones(shape, np.float32) for shape in shapes]
    program = trace(fn, arguments, {}, state_argnums=(), platform="cpu").read()
    assert KIND not in [op.kind for op in program.ops]


def test_a_product_that_is_read_twice_is_left_alone():
    def fn(a, b, c, d):
        product = a @ b
        return product + c @ d, product

    arguments = [np.ones((8, 8), np.float32)] * 4
    program = trace(fn, arguments, {}, state_argnums=(), platform="cpu").read()
    assert KIND not in [op.kind for op in program.ops]
