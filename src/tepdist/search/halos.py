"""What devices exchange along the windows of ops, as strategies cut them.

An op and the gradient of its kernel slide over the same tensor and want the same rows
of their neighbours: the compiler makes one permute of two that are alike, so it is
paid once.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.groups import GroupTensor, view_dims
from tepdist.cost.pricing import Pricing
from tepdist.program.graph import Op, Value
from tepdist.program.windows import exchanges
from tepdist.search.shared import Array, Choice, Shared
from tepdist.search.strategies import Space
from tepdist.search.structure import Structure
from tepdist.sharding import Sharding


@dataclass(frozen=True, slots=True)
class Windowed:
    """An op that slides a window which may be cut.

    Attributes:
        op: That, the first of its group.
        value: What it slides over.
        read: The same as the group sees it.
        trips: How often it runs per step.
    """

    op: Op
    value: Value
    read: GroupTensor
    trips: int


@dataclass(frozen=True, slots=True)
class Permute:
    """Rows that each device sends on. Two that are equal are one.

    Attributes:
        parent: Op in whose region it runs; None at the top.
        value: Whose rows.
        sharding: Of the value.
        place: Which of the value's halos: dim, side and distance.
        bytes_: Of the rows [B].
        axes: Along which they go.
    """

    parent: int | None
    value: int
    sharding: Sharding
    place: tuple[int, int, int]
    bytes_: float
    axes: tuple[str, ...]


def windowed(structure: Structure, group: int) -> Windowed:
    """What one of the structure's windowed groups slides over."""
    member = structure.groups[group].members[0]
    node = structure.nodes[member.node]
    assert node.op is not None
    op = structure.program.ops[node.op]
    assert op.rule is not None
    value = structure.program.values[op.operands[0]]
    dims = view_dims(op.rule.operands[0], member.factors)
    read = GroupTensor(value.index, dims, reduced=False, member=0)
    return Windowed(op, value, read, node.trips)


def permutes(
    found: Windowed, sharding: Sharding, pricing: Pricing
) -> Iterator[Permute]:
    """What devices send each other before such an op runs on their pieces.

    Args:
        found: The op.
        sharding: Of what it slides over.
        pricing: Of the sharding's mesh.
    """
    op, value = found.op, found.value
    assert op.rule is not None
    itemsize = pricing.moved_itemsize(value.dtype)
    for each in exchanges(op.rule, value.shape, sharding, mesh=pricing.mesh):
        for side, hops in enumerate((each.low, each.high)):
            for distance, rows in enumerate(hops):
                yield Permute(
                    op.parent,
                    value.index,
                    sharding,
                    (each.dim, side, distance),
                    rows * each.row_elements * itemsize,
                    each.axes,
                )


def permute_s(permute: Permute, pricing: Pricing) -> float:
    """Time of one [s]."""
    return pricing.collective_s("collective_permute", permute.bytes_, permute.axes)


def halo_costs(
    structure: Structure, pricing: Pricing, spaces: Sequence[Space]
) -> tuple[list[tuple[int, Array]], tuple[Shared, ...]]:
    """Costs of all exchanges.

    Args:
        structure: Of the program.
        pricing: Of the mesh.
        spaces: Strategies of each variable.

    Returns:
        What variables pay for themselves [s], [num strategies] each; what several pay
        for together.
    """
    places: dict[object, _Place] = defaultdict(_Place)
    for group in structure.windowed:
        found = windowed(structure, group)
        variable = structure.variable_of[group]
        shardings, index = spaces[variable].lies(found.read)
        sent = [tuple(permutes(found, each, pricing)) for each in shardings]
        for at in sorted({each.place for row in sent for each in row}):
            place = places[found.op.parent, found.value.index, at]
            place.trips = found.trips * structure.counts[group]
            place.add(variable, [_at(row, at) for row in sent], index)
    own: list[tuple[int, Array]] = []
    shared: list[Shared] = []
    for place in places.values():
        costs = place.trips * np.array(
            [0.0, *(permute_s(permute, pricing) for permute in place.numbers)]
        )
        if len(place.readers) == 1:
            (reader,) = place.readers
            own.append((reader.variable, costs[reader.options]))
        else:
            first = place.readers[0]
            payer = Choice(first.variable, np.zeros_like(first.options))
            shared.append(Shared(payer, tuple(place.readers), costs[None, :]))
    return own, tuple(shared)


class _Place:
    """Who sends what at one place of one value."""

    def __init__(self) -> None:
        self.numbers: dict[Permute, int] = {}
        self.readers: list[Choice] = []
        self.trips = 1  # of all that it stands for

    def add(
        self, variable: int, sent: Sequence[Permute | None], index: NDArray[np.intp]
    ) -> None:
        """Adds a variable whose strategies send these, each one of them or nothing."""
        columns = [
            0
            if permute is None
            else self.numbers.setdefault(permute, len(self.numbers) + 1)
            for permute in sent
        ]
        self.readers.append(Choice(variable, np.array(columns, np.intp)[index]))


def _at(permutes_: Sequence[Permute], place: tuple[int, int, int]) -> Permute | None:
    return next((each for each in permutes_ if each.place == place), None)
