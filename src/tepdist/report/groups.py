"""Arguments that are placed alike and named alike, as one line."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tepdist.analysis.phases import find_phases, read_before_update
from tepdist.plans.json import bytes_per_device
from tepdist.plans.types import Plan
from tepdist.program.roles import Role
from tepdist.sharding import Sharding

_NUMBER = re.compile(r"(?<![^/.\[])\d+(?![^/.\]])")


@dataclass(frozen=True, slots=True)
class ArgumentGroup:
    """Arguments placed alike whose names end alike.

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
    """A plan's arguments by name and placement, largest share of memory first.

    Arguments are one group if they are placed alike and the last part of their name
    is the same: a parameter and its moments, in every layer.
    """
    return _grouped(plan, range(len(plan.roles.arguments)))


def whole_state(plan: Plan) -> tuple[ArgumentGroup, ...]:
    """State that the stage of ZeRO asks to be sharded and that lies whole.

    Below stage 3 that is what only the optimizer reads. Scalars are not counted.
    """
    stage, program = plan.stages[0], plan.program
    if not plan.options.zero or stage.mesh.num_devices == 1:
        return ()
    phases = find_phases(program, plan.roles)
    kept = read_before_update(program, phases) if plan.options.zero < 3 else ()
    return _grouped(
        plan,
        [
            position
            for position, index in enumerate(program.arguments)
            if plan.roles.arguments[position].role is Role.STATE
            and program.values[index].shape
            and not stage.values[index].axes
            and index not in kept
        ],
    )


def _grouped(plan: Plan, positions: Iterable[int]) -> tuple[ArgumentGroup, ...]:
    stage, program = plan.stages[0], plan.program
    members: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for position in positions:
        role, index = plan.roles.arguments[position], program.arguments[position]
        value = program.values[index]
        last = role.name.rpartition("/")[2]
        placed = (value.shape, value.dtype, stage.values[index])
        members[role.role, name_pattern(last), *placed].append(position)
    groups = (_group(plan, alike) for alike in members.values())
    return tuple(sorted(groups, key=lambda group: -group.bytes_per_device))


def common_pattern(names: Iterable[str]) -> str:
    """One pattern for names that end alike.

    >>> common_pattern(["params/h/0/w", "params/h/1/w"])
    'params/h/*/w'
    >>> common_pattern(["params/h/0/w", "opt/mu/h/0/w"])
    '*/h/*/w'
    """
    patterns = {name_pattern(name) for name in names}
    if len(patterns) == 1:
        return patterns.pop()
    reversed_parts = zip(
        *(pattern.split("/")[::-1] for pattern in patterns), strict=False
    )
    same = itertools.takewhile(lambda parts: len(set(parts)) == 1, reversed_parts)
    return "/".join(["*", *[parts[0] for parts in same][::-1]])


def _group(plan: Plan, positions: list[int]) -> ArgumentGroup:
    stage, roles = plan.stages[0], plan.roles.arguments
    value = plan.program.values[plan.program.arguments[positions[0]]]
    sharding = stage.values[value.index]
    names = [roles[position].name for position in positions]
    return ArgumentGroup(
        pattern=common_pattern(names) if len(names) > 1 else names[0],
        count=len(names),
        role=roles[positions[0]].role,
        shape=value.shape,
        dtype=value.dtype,
        sharding=sharding,
        bytes_per_device=len(names) * bytes_per_device(value, sharding, stage.mesh),
    )
