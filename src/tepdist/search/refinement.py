"""Meshes of three axes: an axis of the best plan on two is split in two.

The space of three axes is an order of magnitude larger than that of two: to build the
problem of a GPT of 426 variables took 2.8 s on 2x2x2 and 0.1 s on 4x2 (2 cores,
2026-11). So what most axes cut is held as it is in the plan found so far. First each
axis is split, and the smaller part set free while all else is held: does it pay to
move it elsewhere? If so, that part and one axis more are free in turn, for as long as
the plan gets cheaper. Such a problem is as large as one of two axes, and has the plan
it comes from among its own.

This is a neighbourhood, not the whole space: bounds are of the problem that was built.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul

import numpy as np

from tepdist.cluster.model import LinkLevel
from tepdist.cost.pricing import Pricing
from tepdist.search.arrangements import Held, Strategy
from tepdist.search.candidates import (
    PROVEN,
    SWEEPS,
    Candidate,
    Question,
    closer_answer,
    first_answer,
    make_candidate,
)
from tepdist.sharding import Mesh

# Two axes that save less over one than this share are not worth a third.
WORTHWHILE = 1e-3
_PROMISING = 5e-3  # a round that saves less is the last
_MOST_ANSWERED = 2  # of the problems of one round, those of the lowest bounds
_MOST_ROUNDS = 3
# Up to so many variables the whole space of the mesh that was found is looked at too:
# that of an MLP of 29 is solved in 0.03 s, of a transformer of 60 in 59 s (2x2x2).
_MAX_WHOLE_VARIABLES = 32


@dataclass(frozen=True, slots=True)
class Move:
    """From a plan to the problem of its neighbours.

    Attributes:
        mesh: Theirs.
        part_of: For each of its axes the axis of the plan's mesh that it is, or is a
            part of.
        free: Axes of `mesh` that may cut anything; the others cut what they cut in
            the plan.
    """

    mesh: Mesh
    part_of: tuple[int, ...]
    free: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A problem of a plan's neighbours, and the plan itself in it."""

    move: Move
    candidate: Candidate
    start: tuple[int, ...]


def refine(
    question: Question,
    candidates: Collection[Candidate],
    *,
    out_of_time: Callable[[], bool],
) -> Candidate | None:
    """The best answer found on three axes.

    Args:
        question: What is asked.
        candidates: Answered, on one and two axes.
        out_of_time: Asked between problems.

    Returns:
        None if two axes are not better than one, or no plan on three is found that is
        better by a thousandth, or overflows less where none fits.
    """
    limit = question.limit
    base = _worth_splitting(candidates, limit)
    if base is None:
        return None
    known = best = min(candidate.rank(limit) for candidate in candidates)
    named = frozenset(
        axis
        for dims in question.options.constraints.values()
        for dim in dims
        for axis in dim
    )
    moves = tuple(splits(base.mesh, question.cluster.levels, whole=named))
    found: list[Neighbour] = []
    for _ in range(_MOST_ROUNDS):
        answered = answers_near(
            question, base, moves, best=best, out_of_time=out_of_time
        )
        found += answered
        nearest = min(
            answered, key=lambda each: each.candidate.rank(limit), default=None
        )
        if nearest is None or not saves(
            WORTHWHILE, nearest.candidate.rank(limit), best
        ):
            break
        is_last = not saves(_PROMISING, nearest.candidate.rank(limit), best)
        base, best = nearest.candidate, nearest.candidate.rank(limit)
        if is_last:
            break
        moves = tuple(exchanges(nearest.move))
    if best == known:
        return None
    chosen = _easiest(found, best, limit)
    if len(question.structure.deciders) <= _MAX_WHOLE_VARIABLES:
        axes = tuple(range(len(chosen.move.mesh.axes)))
        whole = (Move(chosen.move.mesh, axes, free=axes),)
        answered = answers_near(
            question, chosen.candidate, whole, best=best, out_of_time=out_of_time
        )
        chosen = next(iter(answered), chosen)
    return chosen.candidate


def splits(
    mesh: Mesh, levels: Iterable[LinkLevel], *, whole: Collection[str]
) -> Iterator[Move]:
    """Each axis of a mesh of two split in two, one part free.

    Free is the smallest prime of its size, at either end; and where a link level ends
    within the axis, what lies inside it, or outside.

    Args:
        mesh: Of two axes.
        levels: Of the cluster, innermost first.
        whole: Names of axes that are not split.
    """
    units = tuple(accumulate((level.size for level in levels), mul))
    for axis, (name, size) in enumerate(mesh.axes):
        prime = next((p for p in range(2, size) if size % p == 0), None)
        if prime is None or name in whole:
            continue
        stride = mesh.stride(name)
        inside = {unit // stride for unit in units if unit % stride == 0}
        parts = {(prime, 1), (size // prime, 0)}  # inner part, which of the two is free
        parts |= {(part, end) for part in inside for end in (0, 1)}
        for part, end in sorted(parts):
            if 1 < part < size and size % part == 0:
                shape = list(mesh.shape)
                shape[axis : axis + 1] = [size // part, part]
                part_of = (0, 0, 1) if axis == 0 else (0, 1, 1)
                yield Move(Mesh.of_shape(tuple(shape)), part_of, free=(axis + end,))


def exchanges(move: Move) -> Iterator[Move]:
    """From a plan that a move led to: what it left free, and one axis more or less."""
    axes = tuple(range(len(move.mesh.axes)))
    for held in axes:
        free = tuple(axis for axis in axes if axis != held)
        if free != move.free and set(free) & set(move.free):
            yield Move(move.mesh, axes, free)


def _worth_splitting(
    candidates: Collection[Candidate], limit: float
) -> Candidate | None:
    """The best plan on two axes, unless one axis does as well."""

    def best_on(num_axes: int) -> Candidate | None:
        on = [c for c in candidates if len(c.mesh.axes) == num_axes]
        return min(on, key=lambda c: c.rank(limit), default=None)

    one, two = best_on(1), best_on(2)
    if two is None or two.outcome is None:
        return None
    if one is None or one.outcome is None:
        return two
    is_better = saves(WORTHWHILE, two.rank(limit), one.rank(limit))
    return two if is_better or two.rank(limit)[0] > 0 else None


def answers_near(
    question: Question,
    base: Candidate,
    moves: Iterable[Move],
    *,
    best: tuple[float, float],
    out_of_time: Callable[[], bool],
) -> list[Neighbour]:
    """Answers to those problems of a round that are most likely to beat the best."""
    limit, (excess, cost) = question.limit, best
    enough = np.inf if excess > 0 else cost
    built = []
    for move in moves:
        if out_of_time():
            break
        near = neighbour(question, base, move)
        relaxation = near.candidate.relaxation
        relaxation.sweep(SWEEPS, enough=enough, out_of_time=out_of_time)
        if relaxation.bound < enough * (1 - PROVEN):
            built.append(near)
    built.sort(key=lambda each: _promise(each.candidate, limit))
    answered = []
    for each in built[:_MOST_ANSWERED]:
        candidate = each.candidate
        outcome = first_answer(candidate, each.start, out_of_time=out_of_time)
        candidate = closer_answer(
            replace(candidate, outcome=outcome), out_of_time=out_of_time, best=enough
        )
        answered.append(replace(each, candidate=candidate))
    return answered


def neighbour(question: Question, base: Candidate, move: Move) -> Neighbour:
    """The problem that a move leads to."""
    assert base.outcome is not None
    known = base.problem.pricing
    pricing = known if known.mesh == move.mesh else Pricing(known.cluster, move.mesh)
    strategies = [
        _moved(space.strategies[value], move)
        for space, value in zip(
            base.problem.spaces, base.outcome.assignment, strict=True
        )
    ]
    axes = tuple(a for a in range(len(move.mesh.axes)) if a not in move.free)
    held = [
        Held(
            axes,
            before=tuple(strategy.before[axis] for axis in axes),
            after=tuple(strategy.after[axis] for axis in axes),
        )
        for strategy in strategies
    ]
    candidate = make_candidate(question, pricing, held)
    start = tuple(
        space.strategies.index(strategy)
        for space, strategy in zip(candidate.problem.spaces, strategies, strict=True)
    )
    return Neighbour(move, candidate, start)


def _moved(strategy: Strategy, move: Move) -> Strategy:
    """The same on the mesh that a move leads to."""
    return Strategy(
        tuple(strategy.before[axis] for axis in move.part_of),
        tuple(strategy.after[axis] for axis in move.part_of),
    )


def _easiest(
    found: Iterable[Neighbour], best: tuple[float, float], limit: float
) -> Neighbour:
    """Of the problems with the best answer that which is closest to its proof."""
    excess, cost = best
    as_good = (excess, cost * (1 + PROVEN))
    equals = [each for each in found if each.candidate.rank(limit) <= as_good]
    return max(equals, key=lambda each: each.candidate.bound)


def _promise(candidate: Candidate, limit: float) -> tuple[float, float]:
    """Order of problems, the most promising first: their ranks, from below."""
    return (max(candidate.least_peak - limit, 0.0), candidate.relaxation.bound)


def saves(share: float, rank: tuple[float, float], known: tuple[float, float]) -> bool:
    """Whether less overflows, or else a share of the cost is saved."""
    if rank[0] != known[0]:
        return rank[0] < known[0]
    return rank[1] < known[1] * (1 - share)
