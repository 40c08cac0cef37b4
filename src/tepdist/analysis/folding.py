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

from tepdist.analysis.gaps import Gap
from tepdist.analysis.layers import PERIOD
from tepdist.analysis.reads import Ints, Reads
from tepdist.analysis.stacks import EDGE, NONE, find_stacks
from tepdist.program.graph import Op, Program, Region, Value
from tepdist.program.roles import Roles
from tepdist.program.state import lies_as, next_values

T = TypeVar("T")


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
        reads: Of the whole.
    """

    whole: Program = field(repr=False)
    whole_roles: Roles = field(repr=False)
    program: Program
    roles: Roles = field(repr=False)
    ops: Ints = field(repr=False)
    values: Ints = field(repr=False)
    kept_ops: Ints = field(repr=False)
    kept_values: Ints = field(repr=False)
    gaps: tuple[Gap, ...] = field(repr=False)
    reads: Reads = field(repr=False)

    @staticmethod
    def none(program: Program, roles: Roles) -> "Folded":
        """A program that stands for itself."""
        return _without(program, roles, Reads.of(program), gaps=())

    def unfolded(self, steps: Sequence[int]) -> "Folded":
        """The program with so many periods more of the layers of each stack."""
        gaps = [
            replace(gap, stop=gap.stop - step * PERIOD)
            for gap, step in zip(self.gaps, steps, strict=True)
        ]
        return _without(self.whole, self.whole_roles, self.reads, gaps=gaps)

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
    return _without(program, roles, reads, gaps=gaps)


def _share_values(gap: Gap, other: Gap) -> bool:
    return bool((gap.lacks(gap.values) & other.lacks(other.values)).any())


def _reads_close(gap: Gap, reads: Reads) -> bool:
    """Whether what stays finds others, made before it, for what it reads of the gap."""
    stays = ~gap.lacks(gap.ops)[reads.owners]
    missing = gap.lacks(gap.values)[reads.values]
    closed = gap.closed(reads.values, gap.ops.layers[reads.owners])
    comes_later = reads.producers[closed] > reads.owners
    return not (stays & missing & (comes_later | ~gap.is_regular(reads))).any()


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
    if not gaps:
        here = (program, roles)
        return Folded(*here, *here, ops, values, ops, values, (), reads)
    closed = reads
    for gap in gaps:
        values_read = gap.closed(closed.values, gap.ops.layers[reads.owners])
        closed = replace(closed, values=values_read)
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
    renumbered = _Renumbered(program, closed, ops=op_map.tolist(), values=value_map)
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
        reads,
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
        # Not `replace`: it takes three times as long.
        return Op(
            index=self._ops[index],
            kind=op.kind,
            operands=tuple(self._read[first : first + count]),
            results=self.values(op.results),
            rule=op.rule,
            signature=op.signature,
            scope=op.scope,
            parent=None if op.parent is None else self._ops[op.parent],
            regions=tuple(regions),
            trips=op.trips,
            body=op.body,
            axes=op.axes,
        )

    def value(self, index: int) -> Value:
        value = self._program.values[index]
        producer = None if value.producer is None else self._ops[value.producer]
        return Value(
            self._values[index], value.name, value.shape, value.dtype, producer
        )

    def values(self, indices: Iterable[int]) -> tuple[int, ...]:
        return tuple([self._values[index] for index in indices])
