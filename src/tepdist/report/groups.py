"""Arguments that differ only in a number of their names, as one line."""

import re
from collections import defaultdict
from dataclasses import dataclass

from tepdist.plan.json import bytes_per_device
from tepdist.plan.types import Plan
from tepdist.program.roles import Role
from tepdist.sharding import Sharding

_NUMBER = re.compile(r"(?<![^/.\[])\d+(?![^/.\]])")


@dataclass(frozen=True, slots=True)
class ArgumentGroup:
    """Arguments alike in all but a number in their name.

    Attributes:
        pattern: Their name with ``*`` where they differ.
        count: How many there are.
        role: Of each.
        shape: Of each.
        dtype: Of each.
        sharding: Of each.
        bytes_per_device: Of all together [B].
    """

    pattern: str
    count: int
    role: Role
    shape: tuple[int, ...]
    dtype: str
    sharding: Sharding
    bytes_per_device: int


def name_pattern(name: str) -> str:
    """The name with every number between separators replaced.

    >>> name_pattern("params/h/3/mlp/w1")
    'params/h/*/mlp/w1'
    """
    return _NUMBER.sub("*", name)


def argument_groups(plan: Plan) -> tuple[ArgumentGroup, ...]:
    """A plan's arguments by pattern and placement, largest share of memory first."""
    stage, program = plan.stages[0], plan.program
    members: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for position, (role, index) in enumerate(
        zip(plan.roles.arguments, program.arguments, strict=True)
    ):
        value = program.values[index]
        placed = (value.shape, value.dtype, stage.values[index])
        members[name_pattern(role.name), role.role, *placed].append(position)
    groups = []
    for positions in members.values():
        role = plan.roles.arguments[positions[0]]
        value = program.values[program.arguments[positions[0]]]
        sharding = stage.values[value.index]
        each = bytes_per_device(value, sharding, stage.mesh)
        groups.append(
            ArgumentGroup(
                pattern=name_pattern(role.name) if len(positions) > 1 else role.name,
                count=len(positions),
                role=role.role,
                shape=value.shape,
                dtype=value.dtype,
                sharding=sharding,
                bytes_per_device=each * len(positions),
            )
        )
    return tuple(sorted(groups, key=lambda group: -group.bytes_per_device))
