"""Repeated layers: which groups are the same thing in another layer.

Groups of equal structure and equal neighbourhood form a class; one member of a class
stands for one layer. Members of a class whose layers have equal remainder by `PERIOD`
share one variable of the search. That can only restrict the search, never break it:
members of a class have the same factors and the same tensors. Two layers are kept
apart so that plans which alternate (column, row, column, ...) are still found.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tepdist.analysis.groups import Group
from tepdist.analysis.nodes import Node
from tepdist.program.graph import Program

PERIOD = 2
MIN_LAYERS = 4
ROUNDS = 3  # how far a neighbourhood reaches


@dataclass(frozen=True, slots=True)
class Link:
    """A tensor of one group read by another (or, in another way, by itself).

    Attributes:
        source: Group that defines it.
        output: Position in the source's outputs.
        target: Group that reads it.
        input: Position in the target's inputs.
    """

    source: int
    output: int
    target: int
    input: int


def build_links(groups: Sequence[Group]) -> tuple[Link, ...]:
    """All reads between groups; several equal reads by one group count once."""
    defined = {
        tensor.value: (index, position)
        for index, group in enumerate(groups)
        for position, tensor in enumerate(group.outputs)
    }
    links = []
    for target, group in enumerate(groups):
        seen = set()
        for position, tensor in enumerate(group.inputs):
            key = (tensor.value, tensor.dims, tensor.reduced)
            if key in seen or tensor.value not in defined:
                continue
            seen.add(key)
            source, output = defined[tensor.value]
            links.append(Link(source, output, target, position))
    return tuple(links)


def tie_layers(
    program: Program,
    nodes: Sequence[Node],
    groups: Sequence[Group],
    *,
    links: Sequence[Link],
    apart: Mapping[int, object],
) -> tuple[int, ...]:
    """For each group the group that decides for it: itself, or its representative.

    Args:
        program: Any.
        nodes: Its nodes.
        groups: Its groups.
        links: Reads between them.
        apart: Values that only groups of equal marks may share a decision about.
    """
    classes = _classes(program, nodes, groups, links=links, apart=apart)
    layers = _layers(classes, links)
    representative: dict[tuple[int, int], int] = {}
    ties = []
    for index, cls in enumerate(classes):
        if index not in layers:
            ties.append(index)
            continue
        key = (cls, layers[index] % PERIOD)
        ties.append(representative.setdefault(key, index))
    return tuple(ties)


def _classes(
    program: Program,
    nodes: Sequence[Node],
    groups: Sequence[Group],
    *,
    links: Sequence[Link],
    apart: Mapping[int, object],
) -> list[int]:
    """Class of each group: equal structure, and equal neighbours up to ROUNDS away."""
    colors = _interned(
        [
            (
                _structure(program, nodes, group),
                tuple([apart.get(tensor.value) for tensor in group.outputs])
                if apart
                else None,
            )
            for group in groups
        ]
    )
    # What a neighbour is to a group is one number: its port's, then its color.
    numbers: dict[tuple[int, int, int], int] = {}
    around: list[list[tuple[int, int]]] = [[] for _ in groups]
    for link in links:
        into = numbers.setdefault((0, link.input, link.output), len(numbers))
        out = numbers.setdefault((1, link.output, link.input), len(numbers))
        around[link.target].append((into * len(groups), link.source))
        around[link.source].append((out * len(groups), link.target))
    for _ in range(ROUNDS):
        colors = _interned(
            [
                (color, *sorted([port + colors[other] for port, other in neighbours]))
                for color, neighbours in zip(colors, around, strict=True)
            ]
        )
    return colors


def _interned(keys: Sequence[object]) -> list[int]:
    numbers: dict[object, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _structure(program: Program, nodes: Sequence[Node], group: Group) -> object:
    members = []
    for member in group.members:
        node = nodes[member.node]
        if node.op is None:
            value = program.values[node.outputs[0].value]
            what: object = (value.shape, value.dtype, len(node.outputs))
        else:
            what = program.ops[node.op].signature
        members.append((what, node.trips, member.factors, member.reduced))
    ports = tuple(
        [
            (tensor.dims, tensor.reduced, tensor.member)
            for tensor in (*group.inputs, *group.outputs)
        ]
    )
    limits = (group.blocked, group.uneven, group.reduction)
    return (group.sizes, limits, tuple(members), ports)


def _layers(classes: Sequence[int], links: Sequence[Link]) -> dict[int, int]:
    """Layer of each group that lies in one, equal up to a shift for each class.

    Layers spread from the class with most members (in program order) to the classes
    around it, along one kind of link at a time that pairs members off.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, cls in enumerate(classes):
        members[cls].append(index)
    ports: dict[tuple[int, int, int, int], list[tuple[int, int]]] = defaultdict(list)
    for link in links:
        a, b = classes[link.source], classes[link.target]
        if a == b:
            continue
        ports[(a, b, link.output, link.input)].append((link.source, link.target))
        ports[(b, a, ~link.input, ~link.output)].append((link.target, link.source))
    leaving: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)
    for port in sorted(ports):
        leaving[port[0]].append(port)
    layers: dict[int, int] = {}
    done: set[int] = set()
    for seed in sorted(members, key=lambda cls: (-len(members[cls]), cls)):
        if len(members[seed]) < MIN_LAYERS:
            break
        if seed in done:
            continue
        done.add(seed)
        layers.update({index: layer for layer, index in enumerate(members[seed])})
        _spread(seed, members, leaving, ports=ports, layers=layers, done=done)
    return layers


def _spread(
    seed: int,
    members: dict[int, list[int]],
    leaving: dict[int, list[tuple[int, int, int, int]]],
    *,
    ports: dict[tuple[int, int, int, int], list[tuple[int, int]]],
    layers: dict[int, int],
    done: set[int],
) -> None:
    queue = deque([seed])
    while queue:
        cls = queue.popleft()
        for port in leaving[cls]:
            other = port[1]
            if other in done or len(members[other]) < MIN_LAYERS:
                continue
            found = {b: layers[a] for a, b in ports[port] if a in layers}
            if len(found) < len(members[other]) - 1:
                continue
            if len(set(found.values())) != len(found):
                continue
            layers.update(found)
            done.add(other)
            queue.append(other)
