"""Typed keys: users hold them as such, programs take and make their data."""

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from tepdist.frontends.call import Leaf


def key_data(value: Any, leaf: Leaf) -> Any:
    """The leaf's value as the program takes it."""
    return value if leaf.key_impl is None else jax.random.key_data(value)


def wrap_key(array: jax.Array, leaf: Leaf) -> jax.Array:
    """A program's result as the user sees it."""
    if leaf.key_impl is None:
        return array
    whole = _with_whole_keys(array)
    keys: jax.Array = jax.random.wrap_key_data(whole, impl=leaf.key_impl)
    return keys


def _with_whole_keys(data: jax.Array) -> jax.Array:
    """Data of keys, each key whole on one device: JAX takes no others."""
    if isinstance(data, jax.core.Tracer):
        return data  # lies nowhere yet
    sharding = data.sharding
    if not isinstance(sharding, NamedSharding) or len(sharding.spec) < data.ndim:
        return data
    kept = PartitionSpec(*sharding.spec[: data.ndim - 1])
    whole: jax.Array = jax.device_put(data, NamedSharding(sharding.mesh, kept))
    return whole
