"""All-reduces that a compiler makes one of, and what each costs then.

XLA walks the program in order, takes an all-reduce that is not yet taken, and adds
every later one of the same devices and dtype that waits for none of those it has, until
a limit of bytes is reached. What is combined starts once.

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
    priced = list(collectives)
    for members in _sets(program, collectives, most_bytes=most_bytes):
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
    program: Program, collectives: Sequence[Collective], *, most_bytes: int
) -> list[list[int]]:
    """Positions of those that are combined, several each."""
    order = [
        index
        for index, each in enumerate(collectives)
        if each.kind == _COMBINED and 0 < each.bytes_ <= most_bytes
    ]
    order.sort(key=lambda index: collectives[index].op)
    waiting = _waiting(program, [collectives[index].op for index in order])
    alike: dict[tuple[object, ...], int] = {}  # bits of those that are left
    for bit, index in enumerate(order):
        key = _key(program, collectives[index])
        alike[key] = alike.get(key, 0) | 1 << bit
    found = []
    for left in alike.values():
        while left:
            members: list[int] = []
            total, free = 0, left
            while free:
                bit = (free & -free).bit_length() - 1
                total += collectives[order[bit]].bytes_
                if total > most_bytes:
                    break
                members.append(order[bit])
                left ^= 1 << bit
                free &= ~(waiting[bit] | 1 << bit)
            if len(members) > 1:
                found.append(members)
    return found


def _key(program: Program, collective: Collective) -> tuple[object, ...]:
    op = program.ops[collective.op]
    return collective.mesh_axes, program.values[op.results[0]].dtype, op.parent


def _waiting(program: Program, ops: Sequence[int]) -> list[int]:
    """For each all-reduce a bit set of those after it on any path.

    Args:
        program: Any.
        ops: The op that each all-reduce follows.
    """
    after: dict[int, list[int]] = {}
    for bit, index in enumerate(ops):
        after.setdefault(index, []).append(bit)
    ahead = [0] * len(program.values)  # all-reduces that wait for a value
    waiting = [0] * len(ops)
    for op in reversed(program.ops):
        # Ops of a region stand after the op that has it, and its results after them.
        outer = () if op.parent is None else program.ops[op.parent].results
        mask = 0
        for value in (*_made(op), *outer):
            mask |= ahead[value]
        own = after.get(op.index, ())
        for bit in own:
            waiting[bit] = mask
        for bit in own:
            mask |= 1 << bit
        for value in _read(op):
            ahead[value] |= mask
    return waiting


def _read(op: Op) -> tuple[int, ...]:
    yields = tuple(value for region in op.regions for value in region.yields)
    return (*op.operands, *yields)


def _made(op: Op) -> tuple[int, ...]:
    arguments = tuple(value for region in op.regions for value in region.arguments)
    return (*op.results, *arguments)
