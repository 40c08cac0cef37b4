"""Folding: a program with fewer of its repeated layers, that stands for the whole.

Of each stack some layers at both ends stay. The last two of those before the gap stand
for all that are left out: one for the layers an even number away, one for the odd.
What is found for the folded program holds for the whole: an op that is left out is
sharded, and costs, as the one that stands for it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from typing import TypeVar

import numpy as np

from tepdist.analysis.layers import PERIOD, ROUNDS
from tepdist.analysis.runs import Ints
from tepdist.analysis.stacks import (
    EDGE,
    MIN_LAYERS,
    NONE,
    Bools,
    Reads,
    Stack,
    find_stacks,
)
from tepdist.program.graph import Op, Program, Region, Value
from tepdist.program.roles import Roles
from tepdist.program.state import lies_as, next_values

T = TypeVar("T")

# Layers that stay at each end: what decides together there sees the end of its stack.
KEPT = ROUNDS + PERIOD
assert EDGE <= ROUNDS
assert MIN_LAYERS >= 2 * KEPT + PERIOD


@dataclass(frozen=True, slots=True)
class Places:
    """Where ops, or values, stand in the layers of a stack.

    Attributes:
        layers: Of each its layer, `NONE` if it lies in none.
        rows: Of each its row in the table, `NONE` likewise.
        table: What stands in each layer, [rows, layers].
    """

    layers: Ints
    rows: Ints
    table: Ints

    @staticmethod
    def of(layers: Ints, classes: Ints, num_layers: int) -> "Places":
        """Places of all that has a layer and a class."""
        placed = np.flatnonzero(layers != NONE)
        known, found = np.unique(classes[placed], return_inverse=True)
        rows = np.full(len(layers), NONE, np.int64)
        rows[placed] = found
        table = np.full((len(known), num_layers), NONE, np.int64)
        table[found, layers[placed]] = placed
        return Places(layers, rows, table)

    def at(self, items: Ints, layers: Ints) -> Ints:
        """The same as these in other layers."""
        found: Ints = self.table[self.rows[items], layers]
        return found


@dataclass(frozen=True, slots=True)
class Gap:
    """Layers of a stack that are left out.

    Attributes:
        start: First layer that is left out.
        stop: The first after those.
        num_layers: Of the stack.
        ops: Where ops stand.
        values: Where values stand.
    """

    start: int
    stop: int
    num_layers: int
    ops: Places
    values: Places

    @staticmethod
    def of(stack: Stack) -> "Gap":
        """As many layers of a stack as can be left out."""
        count = stack.num_layers
        return Gap(
            KEPT,
            KEPT + (count - 2 * KEPT) // PERIOD * PERIOD,
            count,
            Places.of(stack.op_layer, stack.op_class, count),
            Places.of(stack.value_layer, stack.value_class, count),
        )

    @property
    def size(self) -> int:
        """How many layers are left out."""
        return self.stop - self.start

    def lacks(self, places: Places) -> Bools:
        """Which ops, or values, are left out."""
        missing: Bools = (places.layers >= self.start) & (places.layers < self.stop)
        return missing

    def standing_for(self, places: Places, items: Ints) -> Ints:
        """What stands for some that are left out."""
        layers = (places.layers[items] - self.start) % PERIOD + self.start - PERIOD
        return places.at(items, layers)

    def is_regular(self, reads: Reads) -> Bools:
        """Whether each read is that of an inner layer, of a layer near by."""
        of, to = self.ops.layers[reads.owners], self.values.layers[reads.values]
        is_inner = (of >= EDGE) & (of < self.num_layers - EDGE)
        regular: Bools = is_inner & (to != NONE) & (abs(to - of) <= EDGE)
        return regular

    def closed(self, values: Ints, of: Ints) -> Ints:
        """What is read once the layers around the gap are neighbours.

        Args:
            values: What is read.
            of: The layers that read it.
        """
        found = values.copy()
        missing = np.flatnonzero(self.lacks(self.values)[values])
        move = np.where(of[missing] < self.start, self.size, -self.size)
        # What is left out itself reads what it may; nobody asks.
        layers = self.values.layers[values[missing]] + move
        layers = layers.clip(0, self.num_layers - 1)
        found[missing] = self.values.at(values[missing], layers)
        return found

    def opened(self, ops: Ints, values: Ints) -> Ints:
        """What ops read, or make, in the whole: undoes `closed`."""
        of, to = self.ops.layers[ops], self.values.layers[values]
        is_placed = (of != NONE) & (to != NONE)
        move = np.where(of < self.start, -self.size, self.size)
        moves = is_placed & (abs(to - of) > EDGE) & (abs(to + move - of) <= EDGE)
        found = values.copy()
        found[moves] = self.values.at(values[moves], (to + move)[moves])
        return found

    def instances(self, ops: Ints, values: Ints) -> tuple[Ints, Ints, Ints]:
        """What is left out for which some pairs stand; see `Folded.instances`.

        Ops and values are of the whole.
        """
        of = self.ops.layers[ops]
        at = np.flatnonzero((of >= self.start - PERIOD) & (of < self.start))
        ops, values, of = ops[at], values[at], of[at]
        to = self.values.layers[values]
        moves = (to != NONE) & (abs(to - of) <= EDGE)
        steps = np.arange(PERIOD, self.size + 1, PERIOD)
        found = np.repeat(values[:, None], len(steps), axis=1)
        found[moves] = self.values.at(values[moves, None], to[moves, None] + steps)
        found_ops = self.ops.at(ops[:, None], of[:, None] + steps)
        return np.repeat(at, len(steps)), found_ops.ravel(), found.ravel()


@dataclass(frozen=True)
class Folded:
    """A program, and a smaller one that stands for it.

    Attributes:
        whole: The program itself.
        whole_roles: Its roles.
        program: What stands for it; itself if nothing is repeated.
        roles: Of that.
        ops: For each op of the whole the one that stands for it, [num ops of whole].
        values: For each value likewise.
        kept_ops: For each op of the folded program the same op in the whole.
        kept_values: For each value likewise.
        gaps: What is left out.
    """

    whole: Program = field(repr=False)
    whole_roles: Roles = field(repr=False)
    program: Program
    roles: Roles = field(repr=False)
    ops: Ints = field(repr=False)
    values: Ints = field(repr=False)
    kept_ops: Ints = field(repr=False)
    kept_values: Ints = field(repr=False)
    gaps: tuple[Gap, ...] = field(default=(), repr=False)

    @staticmethod
    def none(program: Program, roles: Roles) -> "Folded":
        """A program that stands for itself."""
        ops, values = np.arange(len(program.ops)), np.arange(len(program.values))
        return Folded(program, roles, program, roles, ops, values, ops, values)

    def unfolded(self, steps: Sequence[int]) -> "Folded":
        """The program with so many periods more of the layers of each stack."""
        gaps = [
            replace(gap, stop=gap.stop - step * PERIOD)
            for gap, step in zip(self.gaps, steps, strict=True)
        ]
        return _without(self.whole, self.whole_roles, Reads.of(self.whole), gaps=gaps)

    @cached_property
    def op_counts(self) -> Ints:
        """How many ops of the whole each op stands for, [num ops]."""
        return np.bincount(self.ops, minlength=len(self.kept_ops))

    @cached_property
    def value_counts(self) -> Ints:
        """How many values of the whole each value stands for, [num values]."""
        return np.bincount(self.values, minlength=len(self.kept_values))

    def whole_ops(self, ops: Collection[int]) -> frozenset[int]:
        """The ops of the whole that some stand for."""
        is_meant = np.zeros(len(self.kept_ops), np.bool_)
        is_meant[list(ops)] = True
        return frozenset(np.flatnonzero(is_meant[self.ops]).tolist())

    def kept(self, marks: Mapping[int, T]) -> dict[int, T]:
        """Marks of values of the whole as marks of those that are kept."""
        return {
            value: marks[of_whole]
            for value, of_whole in enumerate(self.kept_values.tolist())
            if of_whole in marks
        }

    def instances(
        self, ops: Sequence[int], values: Sequence[int]
    ) -> tuple[Ints, Ints, Ints]:
        """What pairs of an op and a value that it reads or makes stand for.

        Args:
            ops: Of the folded program, [n].
            values: Likewise, [n].

        Returns:
            For each pair of the whole the position of the one that stands for it, its
            op, and its value, [m] x 3; by position, then by op.
        """
        own_ops, own_values = self.kept_ops[list(ops)], self.kept_values[list(values)]
        for gap in self.gaps:
            own_values = gap.opened(own_ops, own_values)
        found = [(np.arange(len(ops)), own_ops, own_values)]
        found += [gap.instances(own_ops, own_values) for gap in self.gaps]
        at, all_ops, all_values = (
            np.concatenate(each) for each in zip(*found, strict=True)
        )
        order = np.lexsort((all_ops, at))
        return at[order], all_ops[order], all_values[order]


def fold(program: Program, roles: Roles, marks: Mapping[int, object]) -> Folded:
    """The program without the inner layers of its stacks.

    Args:
        program: Any.
        roles: Its roles.
        marks: Values that only values of equal marks may stand for.
    """
    reads = Reads.of(program)
    gaps: list[Gap] = []
    for stack in find_stacks(program, reads):
        gap = Gap.of(stack)
        if not any(_share_values(gap, other) for other in gaps) and (
            _reads_close(gap, reads)
            and _results_close(gap, program, roles)
            and _stand_ins_fit(gap, program, roles, marks=marks)
        ):
            gaps.append(gap)
    if not gaps:
        return Folded.none(program, roles)
    return _without(program, roles, reads, gaps=gaps)


def _share_values(gap: Gap, other: Gap) -> bool:
    return bool((gap.lacks(gap.values) & other.lacks(other.values)).any())


def _reads_close(gap: Gap, reads: Reads) -> bool:
    """Whether what stays reads nothing of the gap that has another in its place."""
    stays = ~gap.lacks(gap.ops)[reads.owners]
    missing = gap.lacks(gap.values)[reads.values]
    return not (stays & missing & ~gap.is_regular(reads)).any()


def _results_close(gap: Gap, program: Program, roles: Roles) -> bool:
    """Whether inner layers hand out alike, and replace their state alike."""
    missing = np.flatnonzero(gap.lacks(gap.values))
    is_made = np.zeros(len(program.values), np.bool_)
    is_made[list(program.results)] = True
    if (is_made[missing] != is_made[gap.standing_for(gap.values, missing)]).any():
        return False
    pairs = np.array(list(next_values(program, roles).items()), np.int64)
    arguments, values = pairs.reshape(-1, 2).T
    of, to = gap.values.layers[arguments], gap.values.layers[values]
    is_inner = (of >= EDGE) & (of < gap.num_layers - EDGE)
    if (gap.lacks(gap.values)[values] & ~is_inner).any():
        return False
    values, arguments = values[is_inner], arguments[is_inner]
    apart = (to - of)[is_inner]
    rows = gap.values.rows
    kinds = np.stack([rows[arguments], rows[values], apart], axis=1)
    is_one = len(np.unique(kinds, axis=0)) == len(np.unique(rows[arguments]))
    return is_one and bool((abs(apart) <= EDGE).all()) and NONE not in rows[values]


def _stand_ins_fit(
    gap: Gap, program: Program, roles: Roles, *, marks: Mapping[int, object]
) -> bool:
    """Whether what stands for arguments and marked values is as they are."""
    missing = np.flatnonzero(gap.lacks(gap.values))
    if not marks:
        missing = missing[missing < len(program.arguments)]
    stand_ins = gap.standing_for(gap.values, missing)
    pairs = list(zip(missing.tolist(), stand_ins.tolist(), strict=True))
    if any(marks.get(value) != marks.get(other) for value, other in pairs):
        return False

    def described(argument: int) -> object:
        value = program.values[argument]
        rules = program.argument_rules
        role = replace(roles.arguments[argument], name="")
        return value.shape, value.dtype, role, rules[argument] if rules else None

    return all(
        described(value) == described(other)
        for value, other in pairs
        if value < len(program.arguments)
    )


def _without(
    program: Program, roles: Roles, reads: Reads, *, gaps: Sequence[Gap]
) -> Folded:
    """The program without these gaps."""
    ops, values = np.arange(len(program.ops)), np.arange(len(program.values))
    for gap in gaps:
        closed = gap.closed(reads.values, gap.ops.layers[reads.owners])
        reads = replace(reads, values=closed)
        for stand_ins, places in ((ops, gap.ops), (values, gap.values)):
            missing = np.flatnonzero(gap.lacks(places))
            stand_ins[missing] = gap.standing_for(places, missing)
    kept_ops = np.unique(ops)
    kept_values = np.unique(values)
    op_map = np.searchsorted(kept_ops, ops)
    value_map = np.searchsorted(kept_values, values)
    stays = np.zeros(len(values), np.bool_)
    stays[kept_values] = True
    held = [bool(stays[value]) for value in program.arguments]
    results, handed_out = _closed_results(program, roles, gaps)
    renumbered = _Renumbered(program, reads, ops=op_map.tolist(), values=value_map)
    return Folded(
        program,
        roles,
        replace(
            program,
            module=b"",
            ops=tuple(map(renumbered.op, kept_ops.tolist())),
            values=tuple(map(renumbered.value, kept_values.tolist())),
            arguments=renumbered.values(compress(program.arguments, held)),
            results=renumbered.values(compress(results, handed_out)),
            argument_rules=tuple(compress(program.argument_rules, held)),
        ),
        Roles(
            tuple(compress(roles.arguments, held)),
            tuple(compress(roles.results, handed_out)),
        ),
        op_map,
        value_map,
        kept_ops,
        kept_values,
        tuple(gaps),
    )


def _closed_results(
    program: Program, roles: Roles, gaps: Sequence[Gap]
) -> tuple[list[int], list[bool]]:
    """For each result its value once the gaps are closed; whether it is handed out.

    Next to a gap, what replaces the state of one layer may be made in the next.
    """
    values = np.array(program.results, np.int64)
    owners = np.array(lies_as(program, roles), np.int64)
    stays = np.ones(len(values), np.bool_)
    for gap in gaps:
        stays &= ~gap.lacks(gap.values)[owners]
        values = gap.closed(values, gap.values.layers[owners])
    return values.tolist(), stays.tolist()


class _Renumbered:
    """Ops and values of a program as they are in a folded one."""

    def __init__(
        self, program: Program, reads: Reads, *, ops: Sequence[int], values: Ints
    ) -> None:
        self._program = program
        self._starts = reads.starts
        self._read: list[int] = values[reads.values].tolist()
        self._ops = ops
        self._values: list[int] = values.tolist()

    def op(self, index: int) -> Op:
        op = self._program.ops[index]
        first = int(self._starts[index])
        count = len(op.operands)
        regions = []
        yielded = first + count
        for region in op.regions:
            stop = yielded + len(region.yields)
            regions.append(
                Region(self.values(region.arguments), tuple(self._read[yielded:stop]))
            )
            yielded = stop
        return replace(
            op,
            index=self._ops[index],
            operands=tuple(self._read[first : first + count]),
            results=self.values(op.results),
            parent=None if op.parent is None else self._ops[op.parent],
            regions=tuple(regions),
        )

    def value(self, index: int) -> Value:
        value = self._program.values[index]
        producer = None if value.producer is None else self._ops[value.producer]
        return replace(value, index=self._values[index], producer=producer)

    def values(self, indices: Iterable[int]) -> tuple[int, ...]:
        return tuple([self._values[index] for index in indices])
