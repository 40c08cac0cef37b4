"""Which devices exchange in a collective, read from its attributes in HLO text.

XLA writes groups as lists, as a grid of ids in some order, or as axes of a mesh of its
own; a permute has pairs of source and target. Devices are meant by their place in the
program's mesh.
"""

import re

import numpy as np
from numpy.typing import NDArray

from tepdist.sharding import Mesh

_GRID = re.compile(
    r"replica_groups=\[(?P<groups>[\d,]+)\]"
    r"<=\[(?P<sizes>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?"
)
_MESH = re.compile(
    r"replica_groups=mesh\[(?P<axes>[^\]]*)\]"
    r"(?:, device_ids=\(\[(?P<sizes>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?\))?"
    r" \{(?P<joined>[^}]*)\}"
)
_AXIS = re.compile(r"'([^']+)'=(\d+)")
# An axis, or a part of it: how many devices are before it on the axis, and its size.
_JOINED = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_LISTED = re.compile(r"replica_groups=\{\{(?P<first>[\d,]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}")
_PAIR = re.compile(r"(\d+),(\d+)")

Groups = tuple[tuple[int, ...], ...]


def device_groups(attributes: str) -> Groups | None:
    """Devices that exchange: the first group, or every pair of a permute.

    Args:
        attributes: What stands behind the operands of the instruction.

    Returns:
        None if all devices are one group.
    """
    if pairs := _PAIRS.search(attributes):
        found = _PAIR.findall(pairs[1])
        return tuple((int(source), int(target)) for source, target in found)
    if grid := _GRID.search(attributes):
        ids = _in_order(_numbers(grid["sizes"]), grid["order"])
        return (tuple(ids[: _numbers(grid["groups"])[-1]].tolist()),)
    if on_mesh := _MESH.search(attributes):
        return (_first_on_mesh(on_mesh),)
    if listed := _LISTED.search(attributes):
        return (tuple(_numbers(listed["first"])),)
    return None


def joined_axes(groups: Groups | None, mesh: Mesh) -> tuple[str, ...]:
    """Axes of a mesh along which the devices of some groups differ."""
    if groups is None:
        return mesh.names
    varies = np.zeros(len(mesh.shape), np.bool_)
    for group in groups:
        places = np.array(np.unravel_index(np.array(group, np.intp), mesh.shape))
        varies |= (places != places[:, :1]).any(axis=1)
    return tuple(name for name, joins in zip(mesh.names, varies, strict=True) if joins)


def _first_on_mesh(found: re.Match[str]) -> tuple[int, ...]:
    axes = [(name, int(size)) for name, size in _AXIS.findall(found["axes"])]
    shape = [size for _, size in axes]
    ids = _in_order(_numbers(found["sizes"] or "") or shape, found["order"])
    ids = ids.reshape(shape)
    chosen = np.zeros(shape, np.bool_)
    # Of each axis the places that differ from the first in what is joined alone.
    parts = {
        name: (int(b or 1), int(s or 0))
        for name, b, s in _JOINED.findall(found["joined"])
    }
    places = []
    for name, size in axes:
        before, own = parts.get(name, (1, 1))
        own = own or size // before
        stride = size // (before * own)
        places.append(np.arange(own) * stride)
    chosen[np.ix_(*places)] = True
    return tuple(ids[chosen].tolist())


def _in_order(sizes: list[int], order: str | None) -> NDArray[np.intp]:
    """Ids counted over a grid of these sizes whose dims are then put in an order."""
    ids = np.arange(np.prod(sizes, dtype=np.intp)).reshape(sizes)
    if order:
        ids = ids.transpose(_numbers(order))
    return ids.ravel()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
