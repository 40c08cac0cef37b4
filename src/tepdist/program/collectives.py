"""Collectives that a program states itself, in the regions that each device runs.

Their groups are lists of device numbers. A device's number is its place in the mesh,
the last axis running fastest.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxlib.mlir import ir
from numpy.typing import NDArray

from tepdist.sharding import Mesh

# From one device to another; several collectives may share it.
CHANNEL = "#stablehlo.channel_handle<handle = 1, type = 1>"
GROUPS, PAIRS = "replica_groups", "source_target_pairs"
_NAMED_MESH = re.compile(r"replica_group_mesh_axes<mesh = @([\w.$-]+)")
_NAMED_AXIS = re.compile(r'axis_ref<name = "([^"]+)"')


def device_groups(axes: Sequence[str], mesh: Mesh) -> ir.Attribute:
    """Groups of devices that differ in these axes only, each in their order."""
    at = [mesh.names.index(axis) for axis in axes]
    ids = np.arange(mesh.num_devices, dtype=np.int64).reshape(mesh.shape)
    grouped = np.moveaxis(ids, at, range(-len(at), 0))
    rows = np.ascontiguousarray(grouped.reshape(-1, mesh.size_of(axes)))
    groups: ir.Attribute = ir.DenseElementsAttr.get(rows.data)
    return groups


def neighbour_pairs(axes: Sequence[str], mesh: Mesh, distance: int) -> ir.Attribute:
    """From each device to the one so many places on along some axes, if there is one.

    Args:
        axes: Major first.
        mesh: Whose.
        distance: Places; below 0 back.
    """
    at = [mesh.names.index(axis) for axis in axes]
    ids = np.arange(mesh.num_devices, dtype=np.int64).reshape(mesh.shape)
    rows = np.moveaxis(ids, at, range(-len(at), 0)).reshape(-1, mesh.size_of(axes))
    size = rows.shape[1] - abs(distance)
    pairs = np.stack(
        [rows[:, max(-distance, 0) :][:, :size], rows[:, max(distance, 0) :][:, :size]],
        axis=-1,
    ).reshape(-1, 2)
    made: ir.Attribute = ir.DenseElementsAttr.get(np.ascontiguousarray(pairs).data)
    return made


def settle_collective(op: ir.Operation, meshes: Mapping[str, Mesh]) -> None:
    """Writes a collective's groups as numbers, and its channel as JAX does.

    One within groups of one device is what it is given.
    """
    if "channel_handle" in op.attributes:
        op.attributes["channel_handle"] = ir.Attribute.parse(CHANNEL)
    for name in (GROUPS, PAIRS):
        if name not in op.attributes:
            continue
        text = str(op.attributes[name])
        mesh = _NAMED_MESH.search(text)
        if mesh is not None:
            axes = _NAMED_AXIS.findall(text)
            op.attributes[name] = device_groups(axes, meshes[mesh[1]])
    if GROUPS in op.attributes and _groups(op, GROUPS).shape[1:] == (1,):
        for operand, result in zip(op.operands, op.results, strict=True):
            result.replace_all_uses_with(operand)
        op.erase()


def collective_axes(op: ir.Operation, mesh: Mesh) -> tuple[str, ...]:
    """Mesh axes along which devices of one group differ."""
    groups = _groups(op, GROUPS if GROUPS in op.attributes else PAIRS)
    if not groups.size:
        return ()
    # Groups of different sizes are filled up with -1.
    members = np.where(groups < 0, groups[:, :1], groups)
    coordinates = np.unravel_index(members, mesh.shape)
    return tuple(
        axis
        for axis, places in zip(mesh.names, coordinates, strict=True)
        if (places != places[:, :1]).any()
    )


def _groups(op: ir.Operation, name: str) -> NDArray[np.int64]:
    return np.array(ir.DenseIntElementsAttr(op.attributes[name]), np.int64)
