"""Runs: equal blocks of ops that follow one another, as unrolled layers leave them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.analysis.reads import Bools, Ints
from tepdist.program.graph import Program

# Ops that must be alike before they are taken for a repetition.
_WINDOW = 16
# Periods looked at, most frequent first: a GPT's step has a dozen runs.
_MAX_PERIODS = 64


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks of ops of equal signatures, one right after the other.

    Attributes:
        start: First op of the first block.
        period: Ops in a block.
        count: Blocks.
        rest: Ops behind the last block that go on alike.
    """

    start: int
    period: int
    count: int
    rest: int = 0

    @property
    def stop(self) -> int:
        """Op after the last block."""
        return self.start + self.period * self.count

    @property
    def end(self) -> int:
        """Op after all that goes on alike."""
        return self.stop + self.rest

    @staticmethod
    def within(start: int, stop: int, period: int) -> "Run":
        """As many blocks as there are from one op to before another."""
        count, rest = divmod(stop - start, period)
        return Run(start, period, count, rest)

    def joined(self, parts: int) -> "Run":
        """The same in blocks that are so many of these."""
        return Run.within(self.start, self.end, self.period * parts)

    def shifted(self, ops: int) -> "Run":
        """The same from so many ops later on."""
        return Run.within(self.start + ops, self.end, self.period)


def find_runs(program: Program, min_count: int) -> tuple[Run, ...]:
    """Runs of at least so many blocks that share no op, in program order.

    Each starts at an op at the top of the program, so that no block cuts a loop in two.
    """
    kinds = _kinds(program)
    found: list[Run] = []
    candidates = [
        Run.within(start, stop, period)
        for period in _periods(kinds)
        for start, stop in _stretches(kinds, period)
    ]
    is_free = np.ones(len(kinds), np.bool_)
    is_top = np.array([op.parent is None for op in program.ops], np.bool_)
    # Of two that are as long, the one of shorter blocks says more.
    for run in sorted(
        candidates, key=lambda run: (-run.period * run.count, run.period)
    ):
        whole = _within(run, is_free, is_top)
        if whole is not None and whole.count >= min_count:
            found.append(whole)
            is_free[whole.start : whole.stop] = False
    return tuple(sorted(found, key=lambda run: run.start))


def _kinds(program: Program) -> Ints:
    """A number for each op, equal for those of one signature and place in a loop."""
    numbers: dict[tuple[str, int], int] = {}
    kinds = [
        numbers.setdefault(
            (op.signature, 0 if op.parent is None else op.index - op.parent),
            len(numbers),
        )
        for op in program.ops
    ]
    return np.array(kinds, np.int64)


def _periods(kinds: Ints) -> Sequence[int]:
    """Distances between equal windows, most frequent first."""
    count = len(kinds) - _WINDOW + 1
    if count < 2:
        return ()
    hashes = np.zeros(count, np.uint64)
    for shift in range(_WINDOW):
        hashes *= np.uint64(0x100000001B3)
        hashes += kinds[shift : shift + count].astype(np.uint64)
    order = np.argsort(hashes, kind="stable")
    is_same = hashes[order][1:] == hashes[order][:-1]
    periods, counts = np.unique(np.diff(order)[is_same], return_counts=True)
    most = np.argsort(-counts, kind="stable")[:_MAX_PERIODS]
    return [int(period) for period in periods[most]]


def _stretches(kinds: Ints, period: int) -> list[tuple[int, int]]:
    """First op, and the op after the last, of all that repeats at this distance."""
    is_same = kinds[:-period] == kinds[period:]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_same, [False]])))
    return [
        (start, stop + period)
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        if stop - start >= period
    ]


def _within(run: Run, is_free: Bools, is_top: Bools) -> Run | None:
    """What is left of a run where others are; blocks start at the top."""
    taken = np.flatnonzero(~is_free[run.start : run.end])
    start, stop = run.start, run.end
    if len(taken):
        # Others are longer, so they stand before it or behind it.
        before, behind = int(taken[0]), len(is_free[start:stop]) - 1 - int(taken[-1])
        start, stop = (
            (start, start + before) if before >= behind else (stop - behind, stop)
        )
    first = np.flatnonzero(is_top[start : min(start + run.period, stop)])
    if not len(first):
        return None
    start += int(first[0])
    return Run.within(start, stop, run.period)
