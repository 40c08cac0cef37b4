"""Reads between groups, as far as they are alike: found once for all meshes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tepdist.analysis.groups import Group, GroupTensor
from tepdist.analysis.layers import Link
from tepdist.analysis.nodes import Node
from tepdist.cost.pricing import converted_dtype
from tepdist.program.graph import Program, Value


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


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A value and its readers; what that costs depends on strategies alone.

    Compared by identity.

    Attributes:
        times: How often per step such values are made.
        value: One of them.
        written: The same as its group sees it.
        readers: For each kind of link that reads it the number of its variable, in
            order and 0 for the value's own, and the value as that one's groups see it.
    """

    times: int
    value: Value
    written: GroupTensor
    readers: tuple[tuple[int, GroupTensor], ...]


@dataclass(frozen=True, slots=True)
class Fan:
    """Values that are read by the same kinds of links.

    Attributes:
        reading: How they are read; alike ones are one object.
        source: Variable of the groups that define them.
        targets: Variable of each reader.
    """

    reading: Reading
    source: int
    targets: tuple[int, ...]


def link_kinds(
    nodes: Sequence[Node],
    groups: Sequence[Group],
    links: Sequence[Link],
    *,
    variable_of: Sequence[int],
) -> tuple[tuple[LinkKind, ...], tuple[int, ...]]:
    """All kinds of links, and the kind of each link."""
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


def find_fans(
    program: Program,
    groups: Sequence[Group],
    links: Sequence[Link],
    *,
    kinds: Sequence[LinkKind],
    kind_of: Sequence[int],
    counts: Sequence[int],
) -> tuple[Fan, ...]:
    """All values that groups read of each other.

    Args:
        program: Whose groups they are.
        groups: All of them.
        links: Between them.
        kinds: Of links.
        kind_of: Of each link.
        counts: How many groups each group stands for.
    """
    reading_kinds: dict[tuple[int, int], set[int]] = defaultdict(set)
    for link, kind in zip(links, kind_of, strict=True):
        reading_kinds[link.source, link.output].add(kind)
    totals: dict[tuple[int, ...], int] = defaultdict(int)
    for (source, _), found in reading_kinds.items():
        totals[tuple(sorted(found))] += counts[source]
    known: dict[object, Reading] = {}
    fans = []
    for numbers, count in totals.items():
        readers = [kinds[kind] for kind in numbers]
        reading = _reading(program, groups, readers, count=count)
        reading = known.setdefault(_key(reading, program), reading)
        targets = tuple(kind.target for kind in readers)
        fans.append(Fan(reading, readers[0].source, targets))
    return tuple(fans)


def _reading(
    program: Program,
    groups: Sequence[Group],
    kinds: Sequence[LinkKind],
    *,
    count: int,
) -> Reading:
    numbers = {kinds[0].source: 0}
    written, _ = link_tensors(groups, kinds[0])
    return Reading(
        times=count * kinds[0].trips,
        value=program.values[written.value],
        written=written,
        readers=tuple(
            (
                numbers.setdefault(kind.target, len(numbers)),
                link_tensors(groups, kind)[1],
            )
            for kind in kinds
        ),
    )


def _key(reading: Reading, program: Program) -> object:
    """Equal for readings that cost the same under the same strategies."""
    tensors = (reading.written, *(read for _, read in reading.readers))
    return (
        (reading.times, reading.value.shape, reading.value.dtype),
        converted_dtype(reading.value, program),
        tuple((tensor.dims, tensor.reduced) for tensor in tensors),
        tuple(number for number, _ in reading.readers),
    )


def link_tensors(
    groups: Sequence[Group], kind: LinkKind
) -> tuple[GroupTensor, GroupTensor]:
    """The tensor of a kind of links as it is written and as it is read."""
    first = kind.first
    return (
        groups[first.source].outputs[first.output],
        groups[first.target].inputs[first.input],
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
