"""Phases: which ops are forward, backward, update.

Forward is what the loss is made of. Of the rest, what still carries the batch (some
dim of some tensor goes back to a batch argument's batch dim) or leads to such an op is
backward; what is left updates the state.
"""

from collections.abc import Sequence
from enum import StrEnum

from tepdist.program.graph import Op, Program
from tepdist.program.roles import Role, Roles


class Phase(StrEnum):
    """Part of a training step."""

    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"


def find_phases(program: Program, roles: Roles) -> tuple[Phase, ...]:
    """Phase of each op; all forward if the program replaces no state."""
    forward = _needed(program, _losses(program, roles))
    if not any(result.replaces for result in roles.results):
        return (Phase.FORWARD,) * len(program.ops)
    batched = _batched(program, roles)
    backward = _needed(
        program,
        [
            value
            for op in program.ops
            if op.index in batched and op.index not in forward
            for value in op.operands
        ],
    )
    return tuple(
        Phase.FORWARD
        if op.index in forward
        else Phase.BACKWARD
        if op.index in batched or op.index in backward
        else Phase.UPDATE
        for op in program.ops
    )


def read_before_update(program: Program, phases: Sequence[Phase]) -> frozenset[int]:
    """Values that an op of the forward or the backward pass reads."""
    return frozenset(
        value
        for op in program.ops
        if phases[op.index] is not Phase.UPDATE
        for value in op.operands
    )


def _losses(program: Program, roles: Roles) -> list[int]:
    pairs = list(zip(program.results, roles.results, strict=True))
    losses = [value for value, role in pairs if role.is_loss]
    return losses or [value for value, role in pairs if role.replaces is None]


def _needed(program: Program, values: Sequence[int]) -> set[int]:
    """Ops that these values are made by, and all that those need."""
    wanted = set(values)
    needed: set[int] = set()
    for op in reversed(program.ops):
        if not wanted.isdisjoint(op.results) or op.parent in needed:
            needed.add(op.index)
            wanted.update(op.operands)
            for region in op.regions:
                wanted.update(region.yields)
    if not any(op.regions for op in program.ops):
        return needed
    return _with_regions(program, needed, wanted)


def _with_regions(program: Program, needed: set[int], wanted: set[int]) -> set[int]:
    """Adds the ops inside needed control flow, and what those read from outside."""
    pending = True
    while pending:
        pending = False
        for op in reversed(program.ops):
            if op.index in needed:
                continue
            if not wanted.isdisjoint(op.results) or op.parent in needed:
                needed.add(op.index)
                wanted.update(op.operands)
                for region in op.regions:
                    wanted.update(region.yields)
                pending = True
    return needed


def _batched(program: Program, roles: Roles) -> set[int]:
    """Ops with a factor that goes back to a batch dim."""
    dims: dict[int, set[int]] = {
        value: {role.batch_dim}
        for value, role in zip(program.arguments, roles.arguments, strict=True)
        if role.role is Role.BATCH and role.batch_dim is not None
    }
    # Factors of size 1 mean nothing, unless the batch itself is a single example.
    extents = [
        program.values[v].shape[dim] for v, found in dims.items() for dim in found
    ]
    smallest = min(extents, default=2)
    return _follow_all(program, dims, smallest=smallest)


def _follow_all(
    program: Program, dims: dict[int, set[int]], *, smallest: int
) -> set[int]:
    """Ops that the batch dims reach; adds those of the values that they reach."""
    batched: set[int] = set()
    for op in program.ops:
        if op.regions:
            _carry(op, dims, batched)
        elif op.body is not None:
            _enter(op, dims, batched, smallest=smallest)
        elif op.rule is not None:
            _follow(op, dims, batched, smallest=smallest)
        elif any(dims.get(value) for value in op.operands):
            batched.add(op.index)
    return batched


def _enter(
    op: Op, dims: dict[int, set[int]], batched: set[int], *, smallest: int
) -> None:
    """Into a manual computation, whose values have the dims that go in and out."""
    body = op.body
    assert body is not None
    inside = {
        argument: set(dims[value])
        for argument, value in zip(body.arguments, op.operands, strict=True)
        if dims.get(value)
    }
    if not inside:
        return
    batched.add(op.index)
    _follow_all(body, inside, smallest=smallest)
    for value, result in zip(op.results, body.results, strict=True):
        if inside.get(result):
            dims[value] = inside[result]


def _carry(op: Op, dims: dict[int, set[int]], batched: set[int]) -> None:
    """Into a loop: carried values keep their batch dims."""
    for position, operand in enumerate(op.operands[-len(op.results) :]):
        found = dims.get(operand)
        if not found or op.kind != "stablehlo.while":
            continue
        batched.add(op.index)
        dims[op.results[position]] = set(found)
        for region in op.regions:
            dims[region.arguments[position]] = set(found)


def _follow(
    op: Op, dims: dict[int, set[int]], batched: set[int], *, smallest: int
) -> None:
    if dims.keys().isdisjoint(op.operands):
        return
    rule = op.rule
    assert rule is not None
    factors = {
        factor
        for value, operand in zip(op.operands, rule.operands, strict=True)
        for dim in dims.get(value, ())
        for factor in operand[dim][:1]
        if rule.sizes[factor] > 1 or smallest == 1
    }
    if not factors:
        return
    batched.add(op.index)
    for value, result in zip(op.results, rule.results, strict=True):
        found = {dim for dim, made in enumerate(result) if factors & set(made[:1])}
        if found:
            dims[value] = found
