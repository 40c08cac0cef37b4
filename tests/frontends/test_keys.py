"""Typed keys come back from programs that cut their data like any other array."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tepdist.frontends.jax import trace
from tepdist.frontends.keys import wrap_key


def test_keys_come_back_whole_from_data_that_is_cut():
    traced = trace(lambda keys: keys, (jax.random.split(jax.random.key(0), 4),), {})
    (leaf,) = traced.results
    data = np.arange(8, dtype=np.uint32).reshape(4, 2)
    mesh = jax.make_mesh((2, 2), ("x", "y"))
    sharding = NamedSharding(mesh, PartitionSpec("x", "y"))
    keys = wrap_key(jax.device_put(data, sharding), leaf)
    assert jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    np.testing.assert_array_equal(jax.random.key_data(keys), data)
