"""What the search knows of a program before any mesh is looked at."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.bodies import body_temporary_bytes
from tepdist.analysis.groups import Group, GroupTensor, build_groups
from tepdist.analysis.layers import Link, build_links, tie_layers
from tepdist.analysis.liveness import Liveness, expensive_kinds, find_liveness
from tepdist.analysis.nodes import Node, build_nodes
from tepdist.analysis.phases import Phase, find_phases
from tepdist.cluster.model import Device
from tepdist.program.graph import CONSTRAINT, Op, Program
from tepdist.program.roles import Roles
from tepdist.search.work import Work, group_work

# Below this many groups every layer decides for itself.
TIE_ABOVE_GROUPS = 600


@dataclass(frozen=True, slots=True)
class LinkKind:
    """Links that one pair of variables decides alike.

    Attributes:
        first: One of them.
        source: Variable of the groups that define the tensor.
        target: Variable of the groups that read it.
        trips: How often per step each may have to reshard.
    """

    first: Link
    source: int
    target: int
    trips: int


@dataclass(frozen=True, slots=True)
class Fan:
    """Values that are read by the same kinds of links.

    Attributes:
        kinds: All kinds of links that read such a value.
        count: How many such values there are.
    """

    kinds: tuple[int, ...]
    count: int


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

    Attributes:
        program: What is planned.
        next_values: Each state argument's value to the result that replaces it.
        lies_as: For each result the value whose sharding it takes: the argument that
            it replaces, else itself.
        lent: Next values of donated arguments to the argument: they take its buffer.
        phases: Phase of each op.
        pointwise: Ops whose results depend on matching elements alone.
        liveness: When its buffers exist.
        nodes: Its nodes.
        groups: Its groups.
        links: Reads between groups.
        deciders: Group that each variable decides for first.
        variable_of: For each group its variable.
        kinds: Kinds of links.
        fans: Which kinds read a value together.
        copied_links: Links whose copies take memory.
        buffers: Buffers that a strategy can cut.
        work: Work of each decider; what takes the same time is one object.
        windowed: Groups whose first op slides a window that may be cut.
    """

    program: Program
    next_values: Mapping[int, int]
    lies_as: tuple[int, ...]
    lent: Mapping[int, int]
    phases: tuple[Phase, ...]
    pointwise: frozenset[int]
    liveness: Liveness
    nodes: tuple[Node, ...]
    groups: tuple[Group, ...]
    links: tuple[Link, ...]
    deciders: tuple[int, ...]
    variable_of: tuple[int, ...]
    kinds: tuple[LinkKind, ...]
    fans: tuple[Fan, ...]
    copied_links: CopiedLinks
    buffers: Buffers
    work: tuple[Work, ...]
    windowed: tuple[int, ...]


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
    next_values = _next_values(program, roles)
    phases = find_phases(program, roles)
    nodes = build_nodes(program, next_values)
    replaced = {result: argument for argument, result in next_values.items()}
    groups = build_groups(program, nodes, replaced)
    links = build_links(groups)
    ties: Sequence[int] = range(len(groups))
    if len(groups) > TIE_ABOVE_GROUPS:
        ties = tie_layers(program, nodes, groups, links=links, apart=apart)
    deciders = tuple(sorted(set(ties)))
    variables = {group: variable for variable, group in enumerate(deciders)}
    variable_of = tuple(variables[tie] for tie in ties)
    kinds, kind_of = _link_kinds(nodes, groups, links, variable_of=variable_of)
    # In memory a constraint is as good as pointwise: it may take its operand's buffer.
    pointwise = frozenset(
        node.op
        for node in nodes
        if node.op is not None
        and (node.pointwise or program.ops[node.op].kind == CONSTRAINT)
    )
    expensive = expensive_kinds(device)
    liveness = find_liveness(
        program, roles, phases, pointwise=pointwise, expensive=expensive
    )
    stored = frozenset(np.flatnonzero(liveness.is_stored).tolist())
    works = (
        group_work(program, nodes, groups[d], stored=stored, expensive=expensive)
        for d in deciders
    )
    halos = frozenset(op.index for op in program.ops if op.rule and op.rule.halos)
    known: dict[object, Work] = {}
    work = tuple(known.setdefault(each.key, each) for each in works)
    return Structure(
        program=program,
        next_values=next_values,
        lies_as=_lies_as(program, roles),
        lent=_lent(program, roles, replaced),
        phases=phases,
        pointwise=pointwise,
        liveness=liveness,
        nodes=nodes,
        groups=groups,
        links=links,
        deciders=deciders,
        variable_of=variable_of,
        kinds=kinds,
        fans=_find_fans(links, kind_of),
        copied_links=_copied_links(
            nodes, groups, links, kind_of=kind_of, liveness=liveness
        ),
        buffers=_with_temporaries(
            _find_buffers(program, groups, variable_of, liveness=liveness),
            _bodies(program, nodes, groups, expensive=expensive),
            groups,
            variable_of=variable_of,
            liveness=liveness,
        ),
        work=work,
        windowed=tuple(
            index
            for index, group in enumerate(groups)
            if halos and nodes[group.members[0].node].op in halos
        ),
    )


def _next_values(program: Program, roles: Roles) -> dict[int, int]:
    value_of = _argument_values(program, roles)
    return {
        value_of[role.replaces]: value
        for role, value in zip(roles.results, program.results, strict=True)
        if role.replaces is not None
    }


def _lent(
    program: Program, roles: Roles, replaced: Mapping[int, int]
) -> dict[int, int]:
    donated = {
        value
        for role, value in zip(roles.arguments, program.arguments, strict=True)
        if role.donated
    }
    return {
        value: argument
        for value, argument in replaced.items()
        if argument in donated and program.values[value].producer is not None
    }


def _lies_as(program: Program, roles: Roles) -> tuple[int, ...]:
    value_of = _argument_values(program, roles)
    return tuple(
        value if role.replaces is None else value_of[role.replaces]
        for role, value in zip(roles.results, program.results, strict=True)
    )


def _argument_values(program: Program, roles: Roles) -> dict[str, int]:
    return {
        role.name: value
        for role, value in zip(roles.arguments, program.arguments, strict=True)
    }


def _link_kinds(
    nodes: Sequence[Node],
    groups: Sequence[Group],
    links: Sequence[Link],
    *,
    variable_of: Sequence[int],
) -> tuple[tuple[LinkKind, ...], tuple[int, ...]]:
    numbers: dict[tuple[int, int, int, int], int] = {}
    firsts: list[Link] = []
    kind_of = []
    for link in links:
        source, target = variable_of[link.source], variable_of[link.target]
        kind = numbers.setdefault(
            (source, link.output, target, link.input), len(numbers)
        )
        if kind == len(firsts):
            firsts.append(link)
        kind_of.append(kind)
    kinds = tuple(
        LinkKind(
            first=link,
            source=variable_of[link.source],
            target=variable_of[link.target],
            trips=link_trips(nodes, groups, link),
        )
        for kind, link in enumerate(firsts)
    )
    return kinds, tuple(kind_of)


def _find_fans(links: Sequence[Link], kind_of: Sequence[int]) -> tuple[Fan, ...]:
    readers: dict[tuple[int, int], set[int]] = defaultdict(set)
    for link, kind in zip(links, kind_of, strict=True):
        readers[link.source, link.output].add(kind)
    counts = Counter(tuple(sorted(kinds)) for kinds in readers.values())
    return tuple(Fan(kinds, count) for kinds, count in counts.items())


def _copied_links(
    nodes: Sequence[Node],
    groups: Sequence[Group],
    links: Sequence[Link],
    *,
    kind_of: Sequence[int],
    liveness: Liveness,
) -> CopiedLinks:
    """All links but those into state arguments and loops."""
    rows = []
    for link, kind in zip(links, kind_of, strict=True):
        read = groups[link.target].inputs[link.input]
        op = nodes[groups[link.target].members[read.member].node].op
        if op is not None:
            rows.append((kind, read.value, int(liveness.position[op])))
    table = np.array(rows, np.int64).reshape(-1, 3)
    return CopiedLinks(table[:, 0], table[:, 1], table[:, 2])


def _find_buffers(
    program: Program,
    groups: Sequence[Group],
    variable_of: Sequence[int],
    *,
    liveness: Liveness,
) -> Buffers:
    kinds: dict[tuple[int, int], int] = {}
    tensors: list[tuple[GroupTensor, int]] = []
    rows = []
    for index, group in enumerate(groups):
        variable = variable_of[index]
        for position, tensor in enumerate(group.outputs):
            if not liveness.is_buffer[tensor.value]:
                continue
            kind = kinds.setdefault((variable, position), len(kinds))
            if kind == len(tensors):
                tensors.append((tensor, variable))
            rows.append((kind, tensor.value))
    table = np.array(rows, np.int64).reshape(-1, 2)
    sizes = np.array([value.bytes_ for value in program.values], np.float64)
    ungrouped = set(program.arguments) - set(table[:, 1].tolist())
    return Buffers(
        tensors=tuple(tensors),
        kind=table[:, 0],
        value=table[:, 1],
        bytes_=sizes[table[:, 1]],
        start=liveness.start[table[:, 1]],
        end=liveness.end[table[:, 1]],
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
    groups: Sequence[Group],
    *,
    variable_of: Sequence[int],
    liveness: Liveness,
) -> Buffers:
    """The buffers, and what manual computations hold while they run."""
    tensors = list(buffers.tensors)
    kinds: dict[int, int] = {}
    rows: list[tuple[int, int, int, int]] = []
    for index, (op, inside) in bodies.items():
        variable, group = variable_of[index], groups[index]
        pins = tuple(factor for _, factor in group.pinned if factor is not None)
        kind = kinds.setdefault(variable, len(tensors))
        if kind == len(tensors):
            tensor = GroupTensor(op.results[0], (pins,), reduced=False, member=0)
            tensors.append((tensor, variable))
        shards = math.prod(group.sizes[factor] for factor in pins)
        rows.append(
            (kind, op.results[0], inside * shards, int(liveness.position[op.index]))
        )
    kind_, value, held, at = np.array(rows, np.int64).reshape(-1, 4).T
    return replace(
        buffers,
        tensors=tuple(tensors),
        kind=np.append(buffers.kind, kind_),
        value=np.append(buffers.value, value),
        bytes_=np.append(buffers.bytes_, held),
        start=np.append(buffers.start, at),
        end=np.append(buffers.end, at),
    )


def link_trips(nodes: Sequence[Node], groups: Sequence[Group], link: Link) -> int:
    """How often a link may reshard: as often as its value is made.

    So what enters a loop from outside does so once, what a loop carries on each turn.
    """
    group = groups[link.source]
    written = group.outputs[link.output]
    writer = nodes[group.members[written.member].node]
    is_result = written.value == writer.outputs[0].value
    return writer.trips if is_result else writer.inner_trips
