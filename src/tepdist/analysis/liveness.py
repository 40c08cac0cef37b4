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
from tepdist.analysis.reads import Ints, Reads
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
    reads: Reads,
    pointwise: frozenset[int],
    expensive: Collection[str],
) -> Liveness:
    """Lifetimes of all values.

    Args:
        program: Any.
        roles: Its roles.
        phases: Phase of each op.
        reads: What its ops read.
        pointwise: Indices of pointwise ops.
        expensive: Kinds of pointwise op that are not computed twice.
    """
    position, last = _positions(program, phases)
    num_times = len(program.ops) + 1
    num_values = len(program.values)
    start = np.zeros(num_values, np.int64)
    made = np.flatnonzero(reads.producers >= 0)
    start[made] = position[reads.producers[made]]
    fused = _fused(program, reads, pointwise, expensive=expensive)
    generated = generated_values(program)
    # Lists: numpy takes three times as long for one element at a time.
    end: list[int] = _last_reads(program, reads, last).tolist()
    for value in program.results:
        end[value] = num_times - 1
    _extend_through_fusions(program, fused | generated, end)
    is_stored = np.ones(num_values, np.bool_)
    is_stored[list(generated.difference(program.results))] = False
    is_stored[list(fused)] = False
    is_buffer = is_stored.copy()
    _write_over(program, pointwise, fused, position=position.tolist(), end=end)
    _settle_arguments(program, roles, num_times, end=end, is_buffer=is_buffer)
    _settle_regions(program, is_buffer)
    return Liveness(
        num_times=num_times,
        position=position,
        start=start,
        end=np.maximum(np.array(end, np.int64), start - 1),
        is_stored=is_stored,
        is_buffer=is_buffer,
    )


def _positions(program: Program, phases: Sequence[Phase]) -> tuple[Ints, Ints]:
    """Position of each op, and of the last op inside it."""
    count = len(program.ops)
    keys = list(range(count))
    made: dict[int, int] = {}  # what updates make, as soon as they can
    for op, phase in zip(program.ops, phases, strict=True):
        if phase is not Phase.UPDATE or op.parent is not None or op.regions:
            continue
        key = -1
        for value in op.operands:
            found = made.get(value)
            if found is None:
                producer = program.values[value].producer
                found = -1 if producer is None else producer
            key = max(key, found)
        keys[op.index] = key
        for value in op.results:
            made[value] = key
    # Stable: ops that share a key stay in program order, after the op they follow.
    order = np.argsort(keys, kind="stable")
    position = np.empty(count, np.int64)
    position[order] = np.arange(count)
    last = position.copy()
    for op in reversed(program.ops):
        if op.parent is not None:
            last[op.parent] = max(last[op.parent], last[op.index])
    return position, last


def _last_reads(program: Program, reads: Reads, last: Ints) -> Ints:
    """Last position at which each value is read; -1 if it never is."""
    until = last[reads.owners]
    is_nested = np.array([op.parent is not None for op in program.ops], np.bool_)
    for read in np.flatnonzero(is_nested[reads.owners]).tolist():
        value, user = int(reads.values[read]), int(reads.owners[read])
        until[read] = _last_use(program, value, user, last=last)
    end = np.full(len(program.values), -1, np.int64)
    np.maximum.at(end, reads.values, until)
    return end


def _last_use(program: Program, value: int, user: int, *, last: Ints) -> int:
    """Position until which a use keeps a value: a loop reads it until its end."""
    producer = program.values[value].producer
    inside = None if producer is None else _scope(program, program.ops[producer])
    op = program.ops[user]
    until = int(last[user])
    while op.parent is not None and op.parent != inside:
        op = program.ops[op.parent]
        until = max(until, int(last[op.index]))
    return until


def _scope(program: Program, op: Op) -> int | None:
    return op.index if op.kind in CONTROL_FLOW else op.parent


def _fused(
    program: Program,
    reads: Reads,
    pointwise: frozenset[int],
    *,
    expensive: Collection[str],
) -> set[int]:
    """Values that exist inside fusions only."""
    kept = set(program.results)
    for op in program.ops:
        for region in op.regions:
            kept.update(region.yields)
    is_fusing = np.array([op.kind in _FUSING for op in program.ops], np.bool_)
    is_fusing[list(pointwise)] = True
    num_values = len(program.values)
    uses = np.bincount(reads.values, minlength=num_values)
    taken_in = reads.values[is_fusing[reads.owners]]
    can_fuse = (np.bincount(taken_in, minlength=num_values) == uses).tolist()
    is_read_twice = (uses > 1).tolist()
    fused = set()
    for op in program.ops:
        if op.kind == BARRIER:
            fused.update(set(op.results) - kept)  # it renames its operands
    for index in pointwise:
        op = program.ops[index]
        if len(op.results) != 1:
            continue
        (value,) = op.results
        is_twice = is_read_twice[value] and op.kind in expensive
        if can_fuse[value] and value not in kept and not is_twice:
            fused.add(value)
    return fused


def _extend_through_fusions(
    program: Program, fused: Collection[int], end: list[int]
) -> None:
    """What a fused or generated value is made of lives until that value's last use."""
    for value in sorted(fused, reverse=True):
        producer = program.values[value].producer
        assert producer is not None
        op = program.ops[producer]
        made_of = op.operands
        if op.kind == BARRIER:
            at = op.results.index(value)
            made_of = op.operands[at : at + 1]
        until = end[value]
        for operand in made_of:
            if end[operand] < until:
                end[operand] = until


def _write_over(
    program: Program,
    pointwise: frozenset[int],
    fused: set[int],
    *,
    position: Sequence[int],
    end: list[int],
) -> None:
    """An operand that dies in a pointwise op is gone when its result exists."""
    for index in sorted(pointwise):
        op = program.ops[index]
        if len(op.results) != 1 or op.results[0] in fused:
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
