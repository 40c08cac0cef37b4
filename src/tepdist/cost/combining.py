"""All-reduces that a compiler makes one of, and what each costs then.

XLA walks the program in order, takes an all-reduce that is not yet taken, and adds
every later one of the same devices and dtype that waits for none of those it has, up to
a limit of bytes. What is combined starts once.

Source: XLA, `CombineInstructionsByKey` in `hlo/transforms/collectives`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from tepdist.plans.types import Collective
from tepdist.program.graph import Op, Program

Price = Callable[[str, float, tuple[str, ...]], float]  # kind, payload, axes
_COMBINED = "all_reduce"


def combine(
    program: Program,
    collectives: Sequence[Collective],
    price: Price,
    *,
    most_bytes: int,
) -> tuple[Collective, ...]:
    """The same collectives, with what each takes of those it is combined with.

    Args:
        program: That they belong to; an all-reduce follows the op that it names.
        collectives: Each priced alone.
        price: Of one collective [s].
        most_bytes: Limit of a combined payload [B].
    """
    if not most_bytes:
        return tuple(collectives)
    waits_for = _waits_for(program, collectives)
    priced = list(collectives)
    for members in _sets(program, collectives, waits_for, most_bytes=most_bytes):
        first = collectives[members[0]]
        payload = float(sum(collectives[index].bytes_ for index in members))
        together_s = first.count * price(_COMBINED, payload, first.mesh_axes)
        alone_s = sum(collectives[index].seconds for index in members)
        for index in members:
            seconds = collectives[index].seconds * together_s / alone_s
            priced[index] = replace(collectives[index], seconds=seconds)
    return tuple(priced)


def last_reductions(program: Program, reducing: Collection[int]) -> frozenset[int]:
    """Ops whose sums no other reducing op waits for: gradients, as a rule.

    Args:
        program: Any.
        reducing: Indices of ops whose partial results may have to be summed.
    """
    leads_on: set[int] = set()  # values that a reducing op waits for
    last = set()
    for op in reversed(program.ops):
        # What is carried out of a loop or branch is not told apart from its results.
        outer = () if op.parent is None else program.ops[op.parent].results
        leads = any(value in leads_on for value in (*_made(op), *outer))
        if op.index in reducing:
            if not leads:
                last.add(op.index)
            leads = True
        if leads:
            leads_on.update(_read(op))
    return frozenset(last)


def _sets(
    program: Program,
    collectives: Sequence[Collective],
    waits_for: Sequence[int],
    *,
    most_bytes: int,
) -> list[list[int]]:
    """Positions of those that are combined, several each."""
    left = [
        index
        for index, each in enumerate(collectives)
        if each.kind == _COMBINED and each.bytes_ > 0
    ]
    left.sort(key=lambda index: collectives[index].op)
    found = []
    while left:
        members: list[int] = []
        taken, total = 0, 0
        for index in left:
            own = collectives[index]
            if members and _key(program, own) != _key(program, collectives[members[0]]):
                continue
            if waits_for[index] & taken or (
                members and total + own.bytes_ > most_bytes
            ):
                continue
            members.append(index)
            taken |= 1 << index
            total += own.bytes_
        chosen = set(members)
        left = [index for index in left if index not in chosen]
        if len(members) > 1:
            found.append(members)
    return found


def _key(program: Program, collective: Collective) -> tuple[object, ...]:
    op = program.ops[collective.op]
    return collective.mesh_axes, program.values[op.results[0]].dtype, op.parent


def _waits_for(program: Program, collectives: Sequence[Collective]) -> list[int]:
    """For each collective a bit set of the all-reduces before it on any path."""
    after: dict[int, list[int]] = {}
    for index, each in enumerate(collectives):
        if each.kind == _COMBINED:
            after.setdefault(each.op, []).append(index)
    behind = [0] * len(program.values)  # all-reduces that a value waits for
    waits_for = [0] * len(collectives)
    for op in program.ops:
        mask = 0
        for value in _read(op):
            mask |= behind[value]
        own = after.get(op.index, ())
        for index in own:
            waits_for[index] = mask
        for index in own:
            mask |= 1 << index
        # Ops of a region stand after the op that has it.
        outer = () if op.parent is None else program.ops[op.parent].results
        for value in (*_made(op), *outer):
            behind[value] |= mask
    return waits_for


def _read(op: Op) -> tuple[int, ...]:
    yields = tuple(value for region in op.regions for value in region.yields)
    return (*op.operands, *yields)


def _made(op: Op) -> tuple[int, ...]:
    arguments = tuple(value for region in op.regions for value in region.arguments)
    return (*op.results, *arguments)
