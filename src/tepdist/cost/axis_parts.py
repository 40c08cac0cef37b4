"""Mesh axes and parts of axes, as lists that shard one dim, major first."""

import math
from typing import NamedTuple


class AxisPart(NamedTuple):
    """A mesh axis, or a part of one: the axis is [pre_size, size, the rest].

    Attributes:
        axis: Name.
        pre_size: Product of the parts major to this one; 1 for the first part.
        size: Of this part.
    """

    axis: str
    pre_size: int
    size: int


PartSharding = tuple[tuple[AxisPart, ...], ...]
"""As `Sharding.dims`, over parts of axes."""


def num_shards(parts: list[AxisPart]) -> int:
    """Into how many these axes cut a dim."""
    return math.prod(part.size for part in parts)


def joined(parts: list[AxisPart]) -> tuple[AxisPart, ...]:
    """The same with neighbouring parts of one axis as one."""
    merged: list[AxisPart] = []
    for part in parts:
        last = merged[-1] if merged else None
        if last and (last.axis, last.pre_size * last.size) == part[:2]:
            merged[-1] = last._replace(size=last.size * part.size)
        else:
            merged.append(part)
    return tuple(merged)


def divide(first: int, second: int) -> bool:
    """Whether one of them divides the other."""
    return first % second == 0 or second % first == 0


def take(part: AxisPart, room: int) -> tuple[AxisPart, AxisPart | None] | None:
    """As much of an axis as there is room for, and the rest; None if it cannot be."""
    if room <= 1 or not divide(part.size, room):
        return None
    if part.size <= room:
        return part, None
    rest = AxisPart(part.axis, part.pre_size * room, part.size // room)
    return part._replace(size=room), rest


def common_suffix(first: list[AxisPart], second: list[AxisPart]) -> int:
    """How many of the last parts are the same in both."""
    length = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        length += 1
    return length
