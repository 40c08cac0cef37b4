"""The compute of one group, in a form that a strategy can divide."""

from collections.abc import Sequence
from dataclasses import dataclass

from tepdist.analysis.groups import Group, GroupTensor, Member
from tepdist.analysis.nodes import Node
from tepdist.cost.compute import (
    all_bytes,
    compute_dtype,
    flops,
    is_matmul,
    touched_bytes,
)
from tepdist.program.graph import Op, Program


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one tensor that a kernel moves.

    Attributes:
        tensor: As the group sees it.
        bytes_: Of the whole tensor, per run of the group's first member [B].
    """

    tensor: GroupTensor
    bytes_: float


@dataclass(frozen=True, slots=True)
class Work:
    """What one run of a group's ops costs on one device without any sharding.

    The first member is one kernel, the rest fuse into another that reads what comes
    from outside and writes what is read outside.

    Attributes:
        trips: Runs of the first member per step.
        flops: Of the first member, per run, divided by all its sharded factors.
        extents: Factors that make the rows, the columns and the contracted elements
            of a matrix product; None for other ops.
        dtype: Element type it computes in.
        core: Tensors that the first member moves.
        fused: Tensors that the fused rest moves.
        kernels: Kernels started per run.
    """

    trips: int
    flops: float
    extents: tuple[tuple[int, ...], ...] | None
    dtype: str
    core: tuple[Traffic, ...]
    fused: tuple[Traffic, ...]
    kernels: int


def group_work(
    program: Program, nodes: Sequence[Node], group: Group, *, stored: frozenset[int]
) -> Work:
    """Work of a group per step.

    Args:
        program: Whose group it is.
        nodes: All nodes.
        group: The group.
        stored: Values that exist as buffers.
    """
    first = nodes[group.members[0].node]
    op = None if first.op is None or first.pointwise else program.ops[first.op]
    share = 1.0 if op is None else _share_touched(op, program)
    core, fused = [], []
    seen: set[tuple[int, bool]] = set()
    for tensor in (*group.inputs, *group.outputs):
        of_core = op is not None and tensor.member == 0
        key = (tensor.value, of_core)
        if key in seen or tensor.value not in stored:
            continue
        seen.add(key)
        trips = nodes[group.members[tensor.member].node].trips
        bytes_ = program.values[tensor.value].bytes_ * (trips / first.trips)
        if of_core:
            core.append(Traffic(tensor, bytes_ * share))
        else:
            fused.append(Traffic(tensor, bytes_))
    return Work(
        trips=first.trips,
        flops=0.0 if op is None else flops(op, program.values),
        extents=None if op is None else _extents(op, group.members[0]),
        dtype="f32" if op is None else compute_dtype(op, program.values),
        core=tuple(core),
        fused=tuple(fused),
        kernels=int(op is not None) + int(bool(fused)),
    )


def _extents(op: Op, member: Member) -> tuple[tuple[int, ...], ...] | None:
    """Group factors of a product's rows, columns and contracted elements."""
    if op.rule is None or not is_matmul(op.kind):
        return None
    left, right, result = (
        {member.factors[factor] for dim in tensor for factor in dim} - {None}
        for tensor in (*op.rule.operands[:2], op.rule.results[0])
    )
    parts = ((left & result) - right, (right & result) - left, right - result)
    return tuple(
        tuple(factor for factor in part if factor is not None) for part in parts
    )


def _share_touched(op: Op, program: Program) -> float:
    """Share of its operands and results that an op really moves."""
    total = all_bytes(op, program.values)
    return touched_bytes(op, program.values) / total if total else 0.0
