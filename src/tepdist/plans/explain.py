"""Why a value lies as it does: its sharding and the collectives that concern it."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tepdist.errors import OptionsError
from tepdist.plans.json import bytes_per_device
from tepdist.plans.types import Collective, Plan, Stage
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


@dataclass(frozen=True, slots=True)
class Named:
    """A value under the name that users know it by.

    Attributes:
        name: Of an argument, a result, or a value inside the program.
        index: Of the value.
        role: Of an argument; None for any other value.
    """

    name: str
    index: int
    role: Role | None


def find_named(plan: Plan, pattern: str) -> tuple[Named, ...]:
    """The arguments, results and values that a name or a pattern means, in order.

    A name that exists means itself; any other text is a pattern as in constraints
    (``params/*/w1``).

    Raises:
        OptionsError: if there is none; the hint names the nearest.
    """
    known = _known(plan)
    if pattern in known:
        return (known[pattern],)
    found = tuple(named for name, named in known.items() if fnmatchcase(name, pattern))
    if found:
        return found
    raise _unknown(plan, pattern, known)


def explain(
    plan: Plan, name: str, *, alternatives: tuple[Alternative, ...] = ()
) -> Explanation:
    """What the plan says about the value, argument or result of this name.

    Raises:
        OptionsError: if there is none; the hint names the nearest.
    """
    program = plan.program
    known = _known(plan)
    if name not in known:
        raise _unknown(plan, name, known)
    index = known[name].index
    stage = plan.stages[0]
    value = program.values[index]
    sharding = stage.values[index]
    own = {index}
    readers = {
        result for op in program.ops if index in op.operands for result in op.results
    } - own
    update = update_values(plan, name, index) - own - readers
    return Explanation(
        name=name,
        role=known[name].role,
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


def _known(plan: Plan) -> dict[str, Named]:
    """Each name to what it means: arguments go before results, both before values."""
    program, roles = plan.program, plan.roles
    arguments = zip(roles.arguments, program.arguments, strict=True)
    results = zip(roles.results, program.results, strict=True)
    known: dict[str, Named] = {}
    for named in (
        *(Named(role.name, index, role.role) for role, index in arguments),
        *(Named(role.name, index, None) for role, index in results),
        *(Named(value.name, value.index, None) for value in program.values),
    ):
        known.setdefault(named.name, named)
    return known


def _unknown(plan: Plan, name: str, known: Iterable[str]) -> OptionsError:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return OptionsError(
        f"the plan has no argument, result or value named {name!r}",
        where=f"the plan of {plan.program.name}",
        hint=f"did you mean {', '.join(near)}?"
        if near
        else "'*' in place of a name lists all",
    )


def update_values(plan: Plan, name: str, index: int) -> set[int]:
    """Values of an argument's size on the way back from its next value.

    An optimizer's update is elementwise: this walk meets the gradient, transposed
    perhaps, and ends at the product or sum that made it.

    Args:
        plan: Any.
        name: Of the argument.
        index: Its value.
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
