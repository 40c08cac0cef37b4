"""A cluster of one device runs what others run in shards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import trace
from tepdist.plans.types import Options
from tepdist.runtime.local import Executable
from tepdist.sharding import Mesh

X = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)


def added_products(x):
    return x @ x.T + jnp.sin(x) @ x


def factored(x):
    return jnp.linalg.cholesky(x @ x.T + jnp.eye(8))


def transformed(x):
    return jnp.abs(jnp.fft.fft(x))


def manual(x):
    mesh = jax.make_mesh(
        (1,), ("a",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1]
    )
    return jax.shard_map(
        lambda y: jax.lax.psum(y, "a") * 2, mesh=mesh, in_specs=P("a"), out_specs=P()
    )(x)


@pytest.mark.parametrize("mesh", ["1", "1x1"])
@pytest.mark.parametrize("fn", [added_products, factored, transformed, manual])
def test_one_device_runs_what_each_of_many_runs_on_its_shards(fn, mesh):
    traced = trace(fn, (X,), {}, state_argnums=())
    plan = compile_plan(
        traced.read(),
        traced.roles,
        parse_cluster("cpu:1"),
        options=Options(mesh=Mesh.parse(mesh)),
    )
    (got,) = Executable(plan)([X])
    np.testing.assert_allclose(np.asarray(got), jax.jit(fn)(X), rtol=1e-5, atol=1e-5)
