"""Why a value lies as it does: its sharding and the collectives that concern it."""

import difflib
from dataclasses import dataclass

from tepdist.errors import OptionsError
from tepdist.plan.json import bytes_per_device
from tepdist.plan.types import Collective, Plan, Stage
from tepdist.program.graph import Program
from tepdist.program.roles import Role
from tepdist.sharding import Mesh, Sharding


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another sharding of the same value and what it would cost.

    Attributes:
        sharding: The other choice.
        added_s: Step time of the best plan with that choice, less this plan's [s].
    """

    sharding: Sharding
    added_s: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that a plan says about one value.

    Attributes:
        name: Of the value; for an argument or a result its role's name.
        role: Of an argument; None for any other value.
        scope: Where the user wrote the op that makes it; "" if unknown.
        shape: Whole extents.
        dtype: Element type.
        mesh: Of the stage that holds it.
        sharding: As produced.
        total_bytes: Size of the whole tensor [B].
        bytes_per_device: Size of one shard [B].
        own: Collectives on the value itself: it is reduced or resharded.
        readers: Collectives on what is computed from it directly.
        update: For state, collectives on the way to its next value: its gradient's.
        alternatives: Other shardings, cheapest first; empty if none were priced.
    """

    name: str
    role: Role | None
    scope: str
    shape: tuple[int, ...]
    dtype: str
    mesh: Mesh
    sharding: Sharding
    total_bytes: int
    bytes_per_device: int
    own: tuple[Collective, ...]
    readers: tuple[Collective, ...]
    update: tuple[Collective, ...]
    alternatives: tuple[Alternative, ...] = ()


def explain(
    plan: Plan, name: str, *, alternatives: tuple[Alternative, ...] = ()
) -> Explanation:
    """What the plan says about the value, argument or result of this name.

    Raises:
        OptionsError: if there is none; the hint names the nearest.
    """
    program = plan.program
    index, role = _find(plan, name)
    stage = plan.stages[0]
    value = program.values[index]
    sharding = stage.values[index]
    own = {index}
    readers = {
        result for op in program.ops if index in op.operands for result in op.results
    } - own
    update = _update_values(plan, name, index) - own - readers
    return Explanation(
        name=name,
        role=role,
        scope="" if value.producer is None else program.ops[value.producer].scope,
        shape=value.shape,
        dtype=value.dtype,
        mesh=stage.mesh,
        sharding=sharding,
        total_bytes=value.bytes_,
        bytes_per_device=bytes_per_device(value, sharding, stage.mesh),
        own=_collectives(stage, program, own),
        readers=_collectives(stage, program, readers),
        update=_collectives(stage, program, update),
        alternatives=tuple(sorted(alternatives, key=lambda other: other.added_s)),
    )


def _find(plan: Plan, name: str) -> tuple[int, Role | None]:
    program, roles = plan.program, plan.roles
    for argument, index in zip(roles.arguments, program.arguments, strict=True):
        if argument.name == name:
            return index, argument.role
    for result, index in zip(roles.results, program.results, strict=True):
        if result.name == name:
            return index, None
    for value in program.values:
        if value.name == name:
            return value.index, None
    known = [argument.name for argument in roles.arguments]
    known += [result.name for result in roles.results]
    known += [value.name for value in program.values]
    near = difflib.get_close_matches(name, set(known), n=3, cutoff=0.5)
    raise OptionsError(
        f"the plan has no argument, result or value named {name!r}",
        hint=f"did you mean {', '.join(near)}?"
        if near
        else "names are listed by 'tepdist plan --json'",
    )


def _update_values(plan: Plan, name: str, index: int) -> set[int]:
    """Values of an argument's size on the way back from its next value.

    An optimizer's update is elementwise: this walk meets the gradient, transposed
    perhaps, and ends at the product or sum that made it.
    """
    program = plan.program
    todo = [
        result
        for role, result in zip(plan.roles.results, program.results, strict=True)
        if role.replaces == name
    ]
    size = program.values[index].num_elements
    seen: set[int] = set()
    while todo:
        current = todo.pop()
        value = program.values[current]
        if current in seen or value.num_elements != size:
            continue
        seen.add(current)
        op = None if value.producer is None else program.ops[value.producer]
        if op is not None and not (op.rule and op.rule.reduction):
            todo.extend(op.operands)
    return seen


def _collectives(
    stage: Stage, program: Program, values: set[int]
) -> tuple[Collective, ...]:
    names = {program.values[index].name for index in values}
    found = [each for each in stage.collectives if each.value in names]
    return tuple(sorted(found, key=lambda each: -each.seconds))
