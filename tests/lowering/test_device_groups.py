"""Which devices a compiled collective joins."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from tepdist.lowering.device_groups import device_groups, joined_axes
from tepdist.lowering.overlap import scheduled_collectives
from tepdist.sharding import Mesh

MESH = Mesh.parse("2x2x2")
AXES = [axes for count in (1, 2, 3) for axes in combinations(MESH.names, count)]
KINDS = {
    "all_reduce": lambda x, axes: lax.psum(x, axes),
    "all_gather": lambda x, axes: lax.all_gather(x, axes),
    "reduce_scatter": lambda x, axes: lax.psum_scatter(x, axes),
    "all_to_all": lambda x, axes: lax.all_to_all(x, axes, 0, 0),
    "collective_permute": lambda x, axes: lax.ppermute(
        x, axes, [(at, (at + 1) % 2 ** len(axes)) for at in range(2 ** len(axes))]
    ),
}


@pytest.mark.parametrize("axes", AXES, ids="".join)
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_collective_joins_the_axes_it_was_written_over(kind, axes):
    devices = np.array(jax.devices()[:8]).reshape(MESH.shape)
    spec = PartitionSpec(MESH.names)
    run = jax.shard_map(
        lambda x: KINDS[kind](x, axes).reshape(-1)[:1],
        mesh=jax.sharding.Mesh(devices, MESH.names),
        in_specs=spec,
        out_specs=spec,
        check_vma=False,
    )
    argument = jax.ShapeDtypeStruct((8 * 2 ** len(axes), 4), jnp.float32)
    text = jax.jit(run).lower(argument).compile().as_text()
    (found,) = scheduled_collectives(text)
    assert found.kind == kind
    assert joined_axes(found.groups, MESH) == axes


# As XLA writes groups of four devices on a mesh 2x4: along the second axis, then of
# the two places along the first axis and the inner half of the second.
@pytest.mark.parametrize(
    ("attributes", "axes"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}", ("y",)),
        ("replica_groups=[2,4]<=[8], use_global_device_ids=true", ("y",)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("x",)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, channel_id=1", ("y",)),
        ("replica_groups=mesh['a'=2,'b'=4,'c'=1] {'a','b'}", ("x", "y")),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", ("x",)),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", ("x",)),
        ("replica_groups=mesh['a'=8] {'a':(2)4}", ("y",)),
        ("source_target_pairs={{0,4},{4,0},{1,5},{5,1}}, channel_id=2", ("x",)),
        ("replica_groups={}, to_apply=%add", ("x", "y")),
    ],
)
def test_every_way_to_write_groups_is_read(attributes, axes):
    assert joined_axes(device_groups(attributes), Mesh.parse("2x4")) == axes
