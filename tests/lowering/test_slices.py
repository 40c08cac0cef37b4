"""Slices whose starts are out of bounds, cut over devices, read the right elements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import trace
from tepdist.plans.types import Options
from tepdist.runtime.local import Executable
from tepdist.sharding import Mesh

from .every_strategy import plans_by_strategy

ROWS = np.arange(64, dtype=np.float32).reshape(16, 4)
PIVOTS = np.array([[1, 1, 3, 3], [0, 2, 2, 3], [3, 3, 2, 3], [2, 3, 3, 3]], np.int32)


def swapped(pivots):
    """Permutations made by swapping pairs: each turn writes one element of each."""

    def one(row):
        return lax.linalg.lu_pivots_to_permutation(row, 4)

    return jax.vmap(one)(pivots)


@pytest.mark.parametrize(
    ("fn", "arguments"),
    [
        (
            lambda x, i: jnp.sin(lax.dynamic_slice(x, (i, 0), (8, 4))),
            (ROWS, np.int32(13)),
        ),
        (
            lambda x, i: lax.dynamic_slice(x, (i, np.uint8(1)), (4, 2)).reshape(8),
            (ROWS, np.uint8(255)),
        ),
        (swapped, (PIVOTS,)),
    ],
    ids=["beyond", "unsigned", "swapped"],
)
def test_what_is_sliced_twice_is_as_on_one_device(fn, arguments):
    traced = trace(fn, arguments, {}, state_argnums=())
    options = Options(mesh=Mesh.parse("4x2"), level="O1")
    plan = compile_plan(
        traced.read(), traced.roles, parse_cluster("cpu:8"), options=options
    )
    wanted = np.asarray(jax.jit(fn)(*arguments))
    for label, sharded in plans_by_strategy(plan):
        executable = Executable(sharded)
        (got,) = executable([executable.put(i, x) for i, x in enumerate(arguments)])
        np.testing.assert_allclose(np.asarray(got), wanted, 1e-5, err_msg=label)


def test_what_a_scan_reads_is_sliced_as_it_was():
    """Its counter is within bounds: nothing is to be clamped."""

    def fn(x):
        return lax.scan(lambda carry, row: (carry + row, None), jnp.zeros(4), x)[0]

    traced = trace(fn, (ROWS,), {}, state_argnums=())
    options = Options(mesh=Mesh.parse("2"), level="O1")
    plan = compile_plan(
        traced.read(), traced.roles, parse_cluster("cpu:2"), options=options
    )
    (text,) = Executable(plan).hlo_text()
    assert "clamp" not in text
