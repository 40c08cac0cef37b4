"""What the search knows of a program before any mesh is looked at."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.bodies import body_temporary_bytes
from tepdist.analysis.folding import Folded, fold
from tepdist.analysis.groups import Group, GroupTensor, build_groups
from tepdist.analysis.layers import Link, build_links, tie_layers
from tepdist.analysis.liveness import Liveness, expensive_kinds, find_liveness
from tepdist.analysis.nodes import Node, build_nodes
from tepdist.analysis.phases import Phase, find_phases
from tepdist.cluster.model import Device
from tepdist.program.graph import CONSTRAINT, Op, Program
from tepdist.program.roles import Roles
from tepdist.program.state import next_values
from tepdist.search.links import Fan, LinkKind, find_fans, link_kinds
from tepdist.search.variables import Variable, alike_variables
from tepdist.search.work import Work, group_work

# Below this many groups every layer decides for itself.
TIE_ABOVE_GROUPS = 600


@dataclass(frozen=True, slots=True)
class CopiedLinks:
    """Links whose resharded copy takes memory while an op reads it, flat.

    Attributes:
        kind: Kind of the link, [n].
        value: Value that is read, [n].
        position: Position of the op that reads it, [n].
    """

    kind: NDArray[np.int64]
    value: NDArray[np.int64]
    position: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Buffers:
    """Buffers of one program, flat: one entry for each tensor of a group.

    Attributes:
        tensors: For each kind of buffer a tensor and its variable.
        kind: Kind of each buffer: buffers of one kind are cut alike, [n].
        value: The value itself, [n].
        bytes_: Size of the whole tensor [B], [n].
        start: First position at which it exists, [n].
        end: Last, [n].
        num_times: Number of positions.
        fixed: Bytes of arguments that belong to no group (scalars) [B].
    """

    tensors: tuple[tuple[GroupTensor, int], ...]
    kind: NDArray[np.int64]
    value: NDArray[np.int64]
    bytes_: NDArray[np.float64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    num_times: int
    fixed: float


@dataclass(frozen=True, slots=True)
class Structure:
    """A program as the search sees it.

    Groups, and all that is made of them, are of a program with fewer of its repeated
    layers; memory is of the whole.

    Attributes:
        folded: The program, and what stands for it.
        next_values: Each state argument's value to the result that replaces it.
        phases: Phase of each op.
        pointwise: Ops whose results depend on matching elements alone.
        liveness: When its buffers exist.
        nodes: Its nodes.
        groups: Its groups.
        counts: How many groups of the whole program each stands for.
        links: Reads between groups.
        deciders: Group that each variable decides for first.
        variable_of: For each group its variable.
        kinds: Kinds of links.
        fans: Which kinds read a value together.
        copied_links: Links whose copies take memory.
        buffers: Buffers that a strategy can cut.
        variables: What each decides about; variables that decide alike are one object.
        windowed: Groups whose first op slides a window that may be cut.
    """

    folded: Folded
    next_values: Mapping[int, int]
    phases: tuple[Phase, ...]
    pointwise: frozenset[int]
    liveness: Liveness
    nodes: tuple[Node, ...]
    groups: tuple[Group, ...]
    counts: tuple[int, ...]
    links: tuple[Link, ...]
    deciders: tuple[int, ...]
    variable_of: tuple[int, ...]
    kinds: tuple[LinkKind, ...]
    fans: tuple[Fan, ...]
    copied_links: CopiedLinks
    buffers: Buffers
    variables: tuple[Variable, ...]
    windowed: tuple[int, ...]

    @property
    def program(self) -> Program:
        """What groups are of."""
        return self.folded.program


def build_structure(
    program: Program,
    roles: Roles,
    apart: Mapping[int, object],
    *,
    device: Device,
) -> Structure:
    """The structure of a program.

    Args:
        program: Any.
        roles: Its roles.
        apart: Values that the user constrains; layers that differ in them are not
            decided together.
        device: That it is planned for.
    """
    grouped = _Grouped.of(fold(program, roles, apart))
    is_tied = sum(grouped.counts) > TIE_ABOVE_GROUPS
    if grouped.folded.gaps and not is_tied:
        grouped = _Grouped.of(Folded.none(program, roles))
    folded, nodes, groups = grouped.folded, grouped.nodes, grouped.groups
    program = folded.program
    phases = find_phases(program, folded.roles)
    links = build_links(groups)
    ties: Sequence[int] = range(len(groups))
    if is_tied:
        marks = folded.kept(apart)
        ties = tie_layers(program, nodes, groups, links=links, apart=marks)
    deciders = tuple(sorted(set(ties)))
    variables = {group: variable for variable, group in enumerate(deciders)}
    variable_of = tuple(variables[tie] for tie in ties)
    kinds, kind_of = link_kinds(nodes, groups, links, variable_of=variable_of)
    # In memory a constraint is as good as pointwise: it may take its operand's buffer.
    pointwise = frozenset(
        node.op
        for node in nodes
        if node.op is not None
        and (node.pointwise or program.ops[node.op].kind == CONSTRAINT)
    )
    expensive = expensive_kinds(device)
    liveness = find_liveness(
        folded.whole,
        folded.whole_roles,
        [phases[op] for op in folded.ops.tolist()],
        reads=folded.reads,
        pointwise=folded.whole_ops(pointwise),
        expensive=expensive,
    )
    is_stored = liveness.is_stored[folded.kept_values]
    stored = frozenset(np.flatnonzero(is_stored).tolist())
    works = (
        group_work(program, nodes, groups[d], stored=stored, expensive=expensive)
        for d in deciders
    )
    halos = frozenset(op.index for op in program.ops if op.rule and op.rule.halos)
    known: dict[object, Work] = {}
    work = [known.setdefault(each.key, each) for each in works]
    return Structure(
        folded=folded,
        next_values=grouped.next_values,
        phases=phases,
        pointwise=pointwise,
        liveness=liveness,
        nodes=nodes,
        groups=groups,
        counts=grouped.counts,
        links=links,
        deciders=deciders,
        variable_of=variable_of,
        kinds=kinds,
        fans=find_fans(
            program, groups, links, kinds=kinds, kind_of=kind_of, counts=grouped.counts
        ),
        copied_links=_copied_links(grouped, links, kind_of=kind_of, liveness=liveness),
        buffers=_with_temporaries(
            _find_buffers(grouped, variable_of, liveness=liveness),
            _bodies(program, nodes, groups, expensive=expensive),
            grouped,
            variable_of=variable_of,
            liveness=liveness,
        ),
        variables=alike_variables(
            program,
            nodes,
            [groups[decider] for decider in deciders],
            work=work,
            counts=np.bincount(variable_of, grouped.counts).tolist(),
        ),
        windowed=tuple(
            index
            for index, group in enumerate(groups)
            if halos and nodes[group.members[0].node].op in halos
        ),
    )


@dataclass(frozen=True, slots=True)
class _Grouped:
    """A folded program in groups.

    Attributes:
        folded: The program.
        next_values: Each state argument's value to the result that replaces it.
        nodes: Of what stands for it.
        groups: Of these.
        counts: How many groups of the whole program each stands for.
    """

    folded: Folded
    next_values: Mapping[int, int]
    nodes: tuple[Node, ...]
    groups: tuple[Group, ...]
    counts: tuple[int, ...]

    @staticmethod
    def of(folded: Folded) -> "_Grouped":
        """The groups of what stands for a program."""
        program = folded.program
        following = next_values(program, folded.roles)
        nodes = build_nodes(program, following)
        replaced = {result: argument for argument, result in following.items()}
        groups = build_groups(program, nodes, replaced)
        ops, values = folded.op_counts.tolist(), folded.value_counts.tolist()
        roots = [nodes[group.members[0].node] for group in groups]
        counts = tuple(
            values[root.outputs[0].value] if root.op is None else ops[root.op]
            for root in roots
        )
        return _Grouped(folded, following, nodes, groups, counts)


def _copied_links(
    grouped: _Grouped,
    links: Sequence[Link],
    *,
    kind_of: Sequence[int],
    liveness: Liveness,
) -> CopiedLinks:
    """All links but those into state arguments and loops."""
    kinds, values, ops = [], [], []
    for link, kind in zip(links, kind_of, strict=True):
        group = grouped.groups[link.target]
        read = group.inputs[link.input]
        op = grouped.nodes[group.members[read.member].node].op
        if op is not None:
            kinds.append(kind)
            values.append(read.value)
            ops.append(op)
    at, all_ops, all_values = grouped.folded.instances(ops, values)
    return CopiedLinks(
        np.array(kinds, np.int64)[at], all_values, liveness.position[all_ops]
    )


def _find_buffers(
    grouped: _Grouped, variable_of: Sequence[int], *, liveness: Liveness
) -> Buffers:
    folded = grouped.folded
    program = folded.whole
    is_kept = np.zeros(len(folded.kept_values), np.bool_)
    is_kept[folded.values[liveness.is_buffer]] = True
    kinds: dict[tuple[int, int], int] = {}
    tensors: list[tuple[GroupTensor, int]] = []
    kind_of = np.full(len(is_kept), -1, np.int64)
    for index, group in enumerate(grouped.groups):
        variable = variable_of[index]
        for position, tensor in enumerate(group.outputs):
            if not is_kept[tensor.value]:
                continue
            kind = kinds.setdefault((variable, position), len(kinds))
            if kind == len(tensors):
                tensors.append((tensor, variable))
            kind_of[tensor.value] = kind
    all_kinds = kind_of[folded.values]
    values = np.flatnonzero((all_kinds >= 0) & liveness.is_buffer)
    sizes = np.array([value.bytes_ for value in program.values], np.float64)
    ungrouped = set(program.arguments).difference(values.tolist())
    return Buffers(
        tensors=tuple(tensors),
        kind=all_kinds[values],
        value=values,
        bytes_=sizes[values],
        start=liveness.start[values],
        end=liveness.end[values],
        num_times=liveness.num_times,
        fixed=float(sum(program.values[value].bytes_ for value in ungrouped)),
    )


def _bodies(
    program: Program,
    nodes: Sequence[Node],
    groups: Sequence[Group],
    *,
    expensive: Collection[str],
) -> dict[int, tuple[Op, int]]:
    """Groups that are a manual computation: its op, and what it holds inside [B]."""
    found = {}
    for index, group in enumerate(groups):
        root = nodes[group.members[0].node].op
        op = None if root is None else program.ops[root]
        if op is not None and op.body is not None and op.results:
            found[index] = op, body_temporary_bytes(op.body, expensive)
    return found


def _with_temporaries(
    buffers: Buffers,
    bodies: Mapping[int, tuple[Op, int]],
    grouped: _Grouped,
    *,
    variable_of: Sequence[int],
    liveness: Liveness,
) -> Buffers:
    """The buffers, and what manual computations hold while they run."""
    if not bodies:
        return buffers
    tensors = list(buffers.tensors)
    kinds: dict[int, int] = {}
    rows: list[tuple[int, float]] = []
    for index, (op, inside) in bodies.items():
        variable, group = variable_of[index], grouped.groups[index]
        pins = tuple(factor for _, factor in group.pinned if factor is not None)
        kind = kinds.setdefault(variable, len(tensors))
        if kind == len(tensors):
            tensor = GroupTensor(op.results[0], (pins,), reduced=False, member=0)
            tensors.append((tensor, variable))
        rows.append((kind, inside * math.prod(group.sizes[pin] for pin in pins)))
    ops = [op for op, _ in bodies.values()]
    at, all_ops, values = grouped.folded.instances(
        [op.index for op in ops], [op.results[0] for op in ops]
    )
    held = np.array(rows)[at]
    positions = liveness.position[all_ops]
    return replace(
        buffers,
        tensors=tuple(tensors),
        kind=np.append(buffers.kind, held[:, 0].astype(np.int64)),
        value=np.append(buffers.value, values),
        bytes_=np.append(buffers.bytes_, held[:, 1]),
        start=np.append(buffers.start, positions),
        end=np.append(buffers.end, positions),
    )
