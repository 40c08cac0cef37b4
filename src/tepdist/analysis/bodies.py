"""What each device runs in a manual computation: its buffers and its collectives.

A body is a program of local shapes, the same on every device.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tepdist.analysis.liveness import Liveness, find_liveness
from tepdist.analysis.nodes import build_nodes, run_counts
from tepdist.analysis.phases import Phase
from tepdist.analysis.reads import Reads
from tepdist.program.graph import COLLECTIVES, Program
from tepdist.program.roles import ResultRole, Roles


@dataclass(frozen=True, slots=True)
class BodyCollective:
    """A collective that a body states.

    Attributes:
        kind: As a plan calls it.
        mesh_axes: Axes that it runs over.
        bytes_: Payload per device and call [B].
        count: Calls for each run of the body.
        label: Of the value that it makes.
    """

    kind: str
    mesh_axes: tuple[str, ...]
    bytes_: int
    count: int
    label: str


def body_collectives(body: Program) -> Iterator[BodyCollective]:
    """The collectives of a body that move anything, in program order.

    The payload of an all-gather is what comes out, of all others what goes in.
    """
    for op, count in zip(body.ops, run_counts(body), strict=True):
        if op.body is not None:
            for each in body_collectives(op.body):
                yield replace(each, count=each.count * count)
        if op.kind not in COLLECTIVES or not op.axes:
            continue
        kind = COLLECTIVES[op.kind]
        moved = op.results if kind == "all_gather" else op.operands
        bytes_ = sum(body.values[value].bytes_ for value in moved)
        yield BodyCollective(
            kind, op.axes, bytes_, count, body.values[op.results[0]].name
        )


def body_liveness(body: Program, expensive: Collection[str]) -> Liveness:
    """Lifetimes of a body's buffers; `expensive` as for `find_liveness`."""
    nodes = build_nodes(body, {})
    results = tuple(
        ResultRole(body.values[value].name, None, is_loss=False)
        for value in body.results
    )
    return find_liveness(
        body,
        Roles((), results),
        (Phase.FORWARD,) * len(body.ops),
        reads=Reads.of(body),
        pointwise=frozenset(n.op for n in nodes if n.op is not None and n.pointwise),
        expensive=expensive,
    )


def body_temporary_bytes(body: Program, expensive: Collection[str]) -> int:
    """Most that a body holds at a time beside what goes in and comes out [B]."""
    liveness = body_liveness(body, expensive)
    outside = {*body.arguments, *body.results}
    changes = np.zeros(liveness.num_times + 1, np.int64)
    for value in body.values:
        if liveness.is_buffer[value.index] and value.index not in outside:
            changes[liveness.start[value.index]] += value.bytes_
            changes[liveness.end[value.index] + 1] -= value.bytes_
    return int(changes.cumsum().max(initial=0))
