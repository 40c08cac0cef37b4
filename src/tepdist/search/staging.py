"""A stage from an assignment: shardings, priced collectives, memory by kind."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tepdist.analysis.bodies import body_collectives
from tepdist.analysis.folding import Folded
from tepdist.analysis.nodes import Node, run_counts
from tepdist.analysis.phases import Phase
from tepdist.cost.combining import combine
from tepdist.cost.footprint import allocator_of
from tepdist.cost.pricing import Pricing
from tepdist.cost.resharding import resharding_steps
from tepdist.plans.types import Collective, Stage, StageMemory
from tepdist.program.graph import Op, Program
from tepdist.search.allocated import allocated_bytes
from tepdist.search.decode import decode, strategy_of
from tepdist.search.halos import permute_s, permutes, windowed
from tepdist.search.links import link_trips
from tepdist.search.memory import MemoryModel
from tepdist.search.placing import place
from tepdist.search.problem import Problem, body_collective_s, reductions
from tepdist.search.strategies import sharding_of
from tepdist.search.structure import Structure
from tepdist.sharding import Mesh


@dataclass(frozen=True, slots=True)
class _Found:
    """A collective of the folded program.

    Attributes:
        collective: For a name it has what is put behind that of its value.
        value: What is moved.
    """

    collective: Collective
    value: int


def make_stage(
    structure: Structure,
    problem: Problem,
    assignment: Sequence[int],
    *,
    memory: MemoryModel,
) -> Stage:
    """The stage that an assignment means.

    Args:
        structure: Of the program.
        problem: Of the mesh.
        assignment: Value of each variable.
        memory: Of the problem.
    """
    decoded = decode(structure, problem, assignment)
    folded = structure.folded
    program = folded.whole
    pricing, mesh = problem.pricing, problem.pricing.mesh
    collectives = combine(
        program,
        [
            each
            for found in (
                _reductions(structure, problem, assignment),
                _reshardings(structure, problem, assignment),
                _halos(structure, problem, assignment),
                _stated(structure, pricing),
            )
            for each in _unfolded(folded, list(found))
        ],
        pricing.collective_s,
        most_bytes=pricing.cluster.combines_bytes,
    )
    placed = place(structure, pricing, decoded, collectives=collectives)
    allocator = allocator_of(pricing.cluster.device)
    allocated = allocated_bytes(folded, placed, allocator)
    return Stage(
        index=0,
        devices=tuple(range(mesh.num_devices)),
        mesh=mesh,
        values=decoded.values,
        operands=decoded.operands,
        results=decoded.results,
        memory=_memory(structure, assignment, memory, allocated=allocated),
        collectives=tuple(c for c in collectives if c.bytes_ > 0),
        compute_s=problem.compute_s(assignment),
        replicated_ops=tuple(
            f"{op.kind} ({program.values[op.results[0]].name})"
            for op in program.ops
            if _is_replicated(op, mesh)
            and any(program.values[value].num_elements for value in op.results)
        ),
    )


def _unfolded(folded: Folded, found: Sequence[_Found]) -> list[Collective]:
    """What some collectives of the folded program stand for, in program order."""
    names = folded.whole.values
    at_op = [each for each in found if each.collective.op >= 0]
    at, ops, values = folded.instances(
        [each.collective.op for each in at_op], [each.value for each in at_op]
    )
    made = [
        replace(each.collective, value=names[value].name)
        for each in found
        if each.collective.op < 0
        for value in np.flatnonzero(folded.values == each.value).tolist()
    ]
    for position, op, value in zip(
        at.tolist(), ops.tolist(), values.tolist(), strict=True
    ):
        collective = at_op[position].collective
        name = names[value].name + collective.value
        made.append(replace(collective, op=op, value=name))
    return sorted(made, key=lambda collective: collective.op)


def _is_replicated(op: Op, mesh: Mesh) -> bool:
    """Whether devices repeat an op's work for want of a rule.

    A manual computation leaves the axes that it does not name to this.
    """
    if op.rule is None:
        return not op.regions
    if op.body is None:
        return False
    left = mesh.num_devices // mesh.size_of(axis for axis, _ in op.rule.pinned)
    return left > 1


def _reductions(
    structure: Structure,
    problem: Problem,
    assignment: Sequence[int],
) -> Iterator[_Found]:
    mesh = problem.pricing.mesh
    for index, group in enumerate(structure.groups):
        if not group.reduction:
            continue
        strategy = strategy_of(structure, problem, assignment, group=index)
        node = structure.nodes[group.members[0].node]
        assert node.op is not None
        for tensor in group.outputs:
            if tensor.member != 0:
                continue
            value = structure.program.values[tensor.value]
            sharding = sharding_of(strategy, tensor, mesh)
            moved = sharding.shard_elements(
                value.shape, mesh
            ) * problem.pricing.moved_itemsize(value.dtype)
            for kind, payload, axes in reductions(
                strategy, group.reduction, moved, pricing=problem.pricing
            ):
                priced = Collective(
                    phase=structure.phases[node.op],
                    kind=kind,
                    mesh_axes=axes,
                    bytes_=round(payload),
                    count=node.trips,
                    seconds=node.trips
                    * problem.pricing.collective_s(kind, payload, axes),
                    value="",
                    op=node.op,
                )
                yield _Found(priced, value.index)


def _halos(
    structure: Structure, problem: Problem, assignment: Sequence[int]
) -> Iterator[_Found]:
    """What devices exchange along the windows of convolutions and the like."""
    mesh = problem.pricing.mesh
    seen = set()
    for index in structure.windowed:
        found = windowed(structure, index)
        strategy = strategy_of(structure, problem, assignment, group=index)
        sharding = sharding_of(strategy, found.read, mesh)
        for permute in permutes(found, sharding, problem.pricing):
            if permute in seen:
                continue
            seen.add(permute)
            priced = Collective(
                phase=structure.phases[found.op.index],
                kind="collective_permute",
                mesh_axes=permute.axes,
                bytes_=round(permute.bytes_),
                count=found.trips,
                seconds=found.trips * permute_s(permute, problem.pricing),
                value="",
                op=found.op.index,
            )
            yield _Found(priced, found.value.index)


def _stated(structure: Structure, pricing: Pricing) -> Iterator[_Found]:
    """What the program's own manual computations state."""
    counts = run_counts(structure.program)
    for op in structure.program.ops:
        if op.body is None:
            continue
        value = next(iter((*op.results, *op.operands)))
        for each in body_collectives(op.body):
            count = each.count * counts[op.index]
            priced = Collective(
                phase=structure.phases[op.index],
                kind=each.kind,
                mesh_axes=each.mesh_axes,
                bytes_=each.bytes_,
                count=count,
                seconds=count * body_collective_s(each, pricing),
                value=f"/{each.label}",
                op=op.index,
            )
            yield _Found(priced, value)


def _reshardings(
    structure: Structure,
    problem: Problem,
    assignment: Sequence[int],
) -> Iterator[_Found]:
    """Each value resharded once for each sharding that something else reads it in."""
    program, mesh = structure.program, problem.pricing.mesh
    seen = set()
    for link in structure.links:
        source_group = structure.groups[link.source]
        target_group = structure.groups[link.target]
        written, read = (
            source_group.outputs[link.output],
            target_group.inputs[link.input],
        )
        source = sharding_of(
            strategy_of(structure, problem, assignment, group=link.source),
            written,
            mesh,
        )
        target = sharding_of(
            strategy_of(structure, problem, assignment, group=link.target), read, mesh
        )
        if source == target:
            continue
        node = structure.nodes[target_group.members[read.member].node]
        producer = structure.nodes[source_group.members[written.member].node]
        key = (written.value, target)
        if key in seen:
            continue
        seen.add(key)
        value = program.values[written.value]
        trips = link_trips(structure.nodes, structure.groups, link)
        op = _op_of(node, program)
        if op is None:
            op = _op_of(producer, program)
        itemsize = problem.pricing.resharded_itemsize(value, program)
        for step in resharding_steps(
            source, target, value.shape, itemsize=itemsize, mesh=mesh
        ):
            priced = Collective(
                phase=structure.phases[op] if op is not None else Phase.UPDATE,
                kind=step.kind,
                mesh_axes=step.mesh_axes,
                bytes_=step.bytes_,
                count=trips,
                seconds=trips * problem.pricing.step_s(step),
                value="",
                op=-1 if op is None else op,
            )
            yield _Found(priced, value.index)


def _op_of(node: Node, program: Program) -> int | None:
    """The op of a node, of a slot the loop or branch it belongs to."""
    if node.op is not None:
        return node.op
    return program.values[node.outputs[0].value].producer


def _memory(
    structure: Structure,
    assignment: Sequence[int],
    memory: MemoryModel,
    *,
    allocated: int,
) -> StageMemory:
    """Memory at the worst time, by what it is for.

    State: arguments. Gradients: what the backward phase made and the update reads.
    Activations: what the forward phase made. Temporaries: the rest.
    """
    folded = structure.folded
    program = folded.whole
    phases = [structure.phases[op] for op in folded.ops.tolist()]
    profile = memory.profile(assignment)
    worst = int(profile.argmax())
    read_by_update = {
        value
        for op in program.ops
        if phases[op.index] is Phase.UPDATE
        for value in op.operands
    }
    totals = {"state": 0.0, "gradients": 0.0, "activations": 0.0}
    for value, bytes_ in memory.held(assignment, worst):
        producer = program.values[value].producer
        if producer is None:
            totals["state"] += bytes_
        elif phases[producer] is Phase.FORWARD:
            totals["activations"] += bytes_
        elif phases[producer] is Phase.BACKWARD and value in read_by_update:
            totals["gradients"] += bytes_
    parts = {kind: round(total) for kind, total in totals.items()}
    peak = round(float(profile[worst]))
    return StageMemory(
        **parts,
        temporaries=max(peak - sum(parts.values()), 0),
        peak=peak,
        allocated=allocated,
    )
