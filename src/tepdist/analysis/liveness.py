"""Liveness: which buffers exist when.

Time is a position in an order of the ops: the program's, except that an op of the
update runs as soon as its operands exist, as a compiler that minimises memory will
have it (so that a gradient dies where it is used). Not every value is a buffer:

* generated values are made where they are used;
* a pointwise value that only pointwise ops and reductions read is fused into them;
  what it is made of lives instead;
* the next value of a donated state argument takes the argument's buffer;
* a pointwise op writes over an operand of its result's size that nothing reads later.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.nodes import BARRIER, generated_values
from tepdist.analysis.phases import Phase
from tepdist.cluster.model import Device
from tepdist.program.graph import CONTROL_FLOW, Op, Program
from tepdist.program.roles import Roles

# Pointwise ops that XLA:CPU would rather store than compute twice.
_TRANSCENDENTAL = frozenset(
    f"stablehlo.{kind}"
    for kind in [
        "exponential",
        "exponential_minus_one",
        "log",
        "log_plus_one",
        "logistic",
        "tanh",
        "tan",
        "sine",
        "cosine",
        "power",
        "sqrt",
        "rsqrt",
        "cbrt",
        "divide",
        "remainder",
        "atan2",
        "rng_bit_generator",
    ]
) | frozenset({"chlo.erf", "chlo.erfc", "chlo.erf_inv", "chlo.lgamma"})
# Accelerators compute these again in less time than it takes to read them; unless
# their memory is fast for their arithmetic: 26 bytes a clock and multiprocessor in
# B200, 13 in A100 and H100. There XLA:GPU computes only the second set again.
_FAST = ("divide", "exponential", "log", "logistic", "rsqrt", "sqrt")
_FAST_BESIDE_FAST_MEMORY = ("divide", "log", "logistic", "rsqrt", "sqrt")
_FAST_MEMORY = frozenset({"b200"})
_FUSING = frozenset({"stablehlo.reduce"})


@dataclass(frozen=True, slots=True)
class Liveness:
    """Lifetimes of the buffers of one run of a program.

    Attributes:
        num_times: Positions are 0..num_times-1.
        position: For each op its position.
        start: For each value the position from which its buffer exists.
        end: The last position at which it is read.
        is_stored: Whether it is in memory at all, its own buffer or another's.
        is_buffer: Whether it has a buffer of its own.
    """

    num_times: int
    position: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    is_stored: NDArray[np.bool_]
    is_buffer: NDArray[np.bool_]


def expensive_kinds(device: Device) -> frozenset[str]:
    """Kinds of pointwise op that a device's compiler stores rather than computes twice.

    Args:
        device: What runs them.
    """
    if device.platform == "cpu":
        return _TRANSCENDENTAL
    fast = _FAST_BESIDE_FAST_MEMORY if device.kind in _FAST_MEMORY else _FAST
    return _TRANSCENDENTAL - {f"stablehlo.{kind}" for kind in fast}


def find_liveness(
    program: Program,
    roles: Roles,
    phases: Sequence[Phase],
    *,
    pointwise: frozenset[int],
    expensive: Collection[str],
) -> Liveness:
    """Lifetimes of all values.

    Args:
        program: Any.
        roles: Its roles.
        phases: Phase of each op.
        pointwise: Indices of pointwise ops.
        expensive: Kinds of pointwise op that are not computed twice.
    """
    position, last = _positions(program, phases)
    num_times = len(program.ops) + 1
    num_values = len(program.values)
    # Lists: numpy takes three times as long for one element at a time.
    start, end = [0] * num_values, [-1] * num_values
    uses = _uses(program)
    for op in program.ops:
        arguments = (value for region in op.regions for value in region.arguments)
        for value in (*op.results, *arguments):
            start[value] = position[op.index]
    fused = _fused(program, uses, pointwise, expensive=expensive)
    is_nested = [op.parent is not None for op in program.ops]
    for value, users in enumerate(uses):
        if users:
            end[value] = max(
                _last_use(program, value, user, last=last)
                if is_nested[user]
                else last[user]
                for user in users
            )
    for value in program.results:
        end[value] = num_times - 1
    generated = generated_values(program)
    _extend_through_fusions(program, fused | generated, end)
    is_stored = np.ones(num_values, np.bool_)
    is_stored[list(generated.difference(program.results))] = False
    is_stored[list(fused)] = False
    is_buffer = is_stored.copy()
    _write_over(program, pointwise, fused, position=position, end=end)
    _settle_arguments(program, roles, num_times, end=end, is_buffer=is_buffer)
    _settle_regions(program, is_buffer)
    starts = np.array(start, np.int64)
    return Liveness(
        num_times=num_times,
        position=np.array(position, np.int64),
        start=starts,
        end=np.maximum(np.array(end, np.int64), starts - 1),
        is_stored=is_stored,
        is_buffer=is_buffer,
    )


def _positions(
    program: Program, phases: Sequence[Phase]
) -> tuple[list[int], list[int]]:
    """Position of each op, and of the last op inside it."""
    count = len(program.ops)
    keys = [float(index) for index in range(count)]
    made = {value: float(op.index) for op in program.ops for value in op.results}
    for op in program.ops:
        if phases[op.index] is not Phase.UPDATE or op.parent is not None or op.regions:
            continue
        key = max((made.get(value, -1.0) for value in op.operands), default=-1.0)
        keys[op.index] = key
        for value in op.results:
            made[value] = key
    # Stable: ops that share a key stay in program order, after the op they follow.
    order = np.argsort(keys, kind="stable")
    positions = np.empty(count, np.int64)
    positions[order] = np.arange(count)
    position: list[int] = positions.tolist()
    last = list(position)
    for op in reversed(program.ops):
        if op.parent is not None:
            last[op.parent] = max(last[op.parent], last[op.index])
    return position, last


def _uses(program: Program) -> list[list[int]]:
    """For each value the ops that read it; a region's yield is read by its owner."""
    uses: list[list[int]] = [[] for _ in program.values]
    for op in program.ops:
        for value in op.operands:
            uses[value].append(op.index)
        for region in op.regions:
            for value in region.yields:
                uses[value].append(op.index)
    return uses


def _last_use(program: Program, value: int, user: int, *, last: Sequence[int]) -> int:
    """Position until which a use keeps a value: a loop reads it until its end."""
    producer = program.values[value].producer
    inside = None if producer is None else _scope(program, program.ops[producer])
    op = program.ops[user]
    until = last[user]
    while op.parent is not None and op.parent != inside:
        op = program.ops[op.parent]
        until = max(until, last[op.index])
    return until


def _scope(program: Program, op: Op) -> int | None:
    return op.index if op.kind in CONTROL_FLOW else op.parent


def _fused(
    program: Program,
    uses: list[list[int]],
    pointwise: frozenset[int],
    *,
    expensive: Collection[str],
) -> set[int]:
    """Values that exist inside fusions only."""
    kept = set(program.results)
    for op in program.ops:
        for region in op.regions:
            kept.update(region.yields)
    fusing = {op.index for op in program.ops if op.kind in _FUSING} | pointwise
    fused = set()
    for op in program.ops:
        if op.kind == BARRIER:
            fused.update(set(op.results) - kept)  # it renames its operands
        if op.index not in pointwise or len(op.results) != 1:
            continue
        (value,) = op.results
        if value in kept or (len(uses[value]) > 1 and op.kind in expensive):
            continue
        if fusing.issuperset(uses[value]):
            fused.add(value)
    return fused


def _extend_through_fusions(
    program: Program, fused: Collection[int], end: list[int]
) -> None:
    """What a fused or generated value is made of lives until that value's last use."""
    for op in reversed(program.ops):
        for position, value in enumerate(op.results):
            if value not in fused:
                continue
            made_of = op.operands
            if op.kind == BARRIER:
                made_of = op.operands[position : position + 1]
            for operand in made_of:
                end[operand] = max(end[operand], end[value])


def _write_over(
    program: Program,
    pointwise: frozenset[int],
    fused: set[int],
    *,
    position: Sequence[int],
    end: list[int],
) -> None:
    """An operand that dies in a pointwise op is gone when its result exists."""
    for op in program.ops:
        if op.index not in pointwise or len(op.results) != 1 or op.results[0] in fused:
            continue
        here = position[op.index]
        wanted = program.values[op.results[0]].bytes_
        for value in _sources(program, op, fused):
            described = program.values[value]
            if described.producer is None or end[value] != here:
                continue
            if described.bytes_ == wanted:
                end[value] = here - 1
                break


def _sources(program: Program, op: Op, fused: set[int]) -> list[int]:
    """Values in memory that a fusion ending in this op reads."""
    found, pending = [], list(op.operands)
    while pending:
        value = pending.pop()
        producer = program.values[value].producer
        if value in fused and producer is not None:
            pending += program.ops[producer].operands
        else:
            found.append(value)
    return found


def _settle_arguments(
    program: Program,
    roles: Roles,
    num_times: int,
    *,
    end: list[int],
    is_buffer: NDArray[np.bool_],
) -> None:
    """Arguments exist throughout; a donated one lends its buffer to its next value."""
    donated = {role.name for role in roles.arguments if role.donated}
    arguments = set(program.arguments)
    for value in arguments:
        end[value] = num_times - 1
    for value, result in zip(program.results, roles.results, strict=True):
        if result.replaces in donated and value not in arguments:
            is_buffer[value] = False


def _settle_regions(program: Program, is_buffer: NDArray[np.bool_]) -> None:
    """A carried value has one buffer: the op's result stands for it."""
    for op in program.ops:
        for region in op.regions:
            is_buffer[list(region.arguments)] = False
        for region in op.result_regions:
            for value in region.yields:
                if program.values[value].producer != op.index:
                    is_buffer[value] = False
