"""The compute of one group, in a form that a strategy can divide."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tepdist.analysis.bodies import body_liveness
from tepdist.analysis.groups import Group, GroupTensor, Member, build_groups
from tepdist.analysis.nodes import Node, build_nodes
from tepdist.cost.compute import (
    all_bytes,
    compute_dtype,
    flops,
    is_matmul,
    touched_bytes,
)
from tepdist.program.graph import CONSTRAINT, Op, Program


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
        sizes: Of the group's factors.
        flops: Of the first member, per run, divided by all its sharded factors.
        extents: Factors that make the rows, the columns and the contracted elements
            of a matrix product; None for other ops.
        dtype: Element type it computes in.
        core: Tensors that the first member moves.
        fused: Tensors that the fused rest moves.
        kernels: Kernels started per run.
        inside: Work of one device in a manual computation, once for each run.
    """

    trips: int
    sizes: tuple[int, ...]
    flops: float
    extents: tuple[tuple[int, ...], ...] | None
    dtype: str
    core: tuple[Traffic, ...]
    fused: tuple[Traffic, ...]
    kernels: int
    inside: tuple["Work", ...] = ()

    @property
    def key(self) -> object:
        """Equal for work that takes the same time under every strategy."""
        kernels = tuple(
            tuple((t.tensor.dims, t.tensor.reduced, t.bytes_) for t in kernel)
            for kernel in (self.core, self.fused)
        )
        return replace(self, core=(), fused=()), kernels


def group_work(
    program: Program,
    nodes: Sequence[Node],
    group: Group,
    *,
    stored: frozenset[int],
    expensive: Collection[str],
) -> Work:
    """Work of a group per step.

    Args:
        program: Whose group it is.
        nodes: All nodes.
        group: The group.
        stored: Values that exist as buffers.
        expensive: Kinds of pointwise op that are not computed twice.
    """
    first = nodes[group.members[0].node]
    op = None if first.op is None or first.pointwise else program.ops[first.op]
    renamed = _renamed(op, stored)
    op = None if op is not None and op.kind == CONSTRAINT else op
    body = None if op is None else op.body
    share = 1.0 if op is None else _share_touched(op, program)
    core, fused = [], []
    seen: set[tuple[int, bool]] = set()
    for tensor in (*group.inputs, *group.outputs):
        of_core = op is not None and tensor.member == 0
        key = (tensor.value, of_core)
        if key in seen or tensor.value not in stored or tensor.value in renamed:
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
        sizes=group.sizes,
        flops=0.0 if op is None else flops(op, program.values),
        extents=None if op is None else _extents(op, group.members[0]),
        dtype="f32" if op is None else compute_dtype(op, program.values),
        core=tuple(core),
        fused=tuple(fused),
        kernels=int(op is not None) + int(bool(fused)),
        inside=() if body is None else _body_work(body, expensive),
    )


def _renamed(op: Op | None, stored: frozenset[int]) -> frozenset[int]:
    """What a constraint moves nothing of: its operand, its result if that is the same.

    Where the operand is no buffer, its result is what a fusion writes.
    """
    if op is None or op.kind != CONSTRAINT:
        return frozenset()
    is_written = op.operands[0] not in stored
    return frozenset(op.operands if is_written else (*op.operands, *op.results))


def _body_work(body: Program, expensive: Collection[str]) -> tuple[Work, ...]:
    """Work of all ops of a manual computation, on local shapes."""
    nodes = build_nodes(body, {})
    stored = frozenset(
        np.flatnonzero(body_liveness(body, expensive).is_stored).tolist()
    )
    return tuple(
        group_work(body, nodes, group, stored=stored, expensive=expensive)
        for group in build_groups(body, nodes, {})
    )


def _extents(op: Op, member: Member) -> tuple[tuple[int, ...], ...] | None:
    """Group factors of a product's rows, columns and contracted elements."""
    if op.rule is None or not is_matmul(op.kind):
        return None
    (result,) = _factors(op.rule.results, member)
    operands = _factors(op.rule.operands, member)
    # Of products that are added, the one of most dims; the others share what it has.
    left, right = max(
        zip(operands[::2], operands[1::2], strict=True),
        key=lambda pair: len(set.union(*pair)),
    )
    parts = ((left & result) - right, (right & result) - left, right - result)
    return tuple(tuple(sorted(part)) for part in parts)


def _factors(
    tensors: Sequence[Sequence[Sequence[int]]], member: Member
) -> list[set[int]]:
    """Group factors of each tensor of a rule."""
    factors = (
        {member.factors[factor] for dim in tensor for factor in dim}
        for tensor in tensors
    )
    return [{factor for factor in each if factor is not None} for each in factors]


def _share_touched(op: Op, program: Program) -> float:
    """Share of its operands and results that an op really moves."""
    total = all_bytes(op, program.values)
    return touched_bytes(op, program.values) / total if total else 0.0
