"""Better answers by the exact solver, with bounds, mesh after mesh."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tepdist.search.candidates import PROVEN, Candidate, best_cost
from tepdist.search.clock import Clock, Progress
from tepdist.search.cuts import CutSearch
from tepdist.search.limited import Outcome
from tepdist.search.neighbourhoods import Neighbourhoods
from tepdist.search.recombination import recombine
from tepdist.search.sharing import CLOSED, SharingSearch

# Cuts prove the best answer within memory; an MLP of 29 variables took 3 s, one of 81
# more than 20 s (2 cores, 2026-11).
_MAX_CUT_VARIABLES = 32
# Shares of the time for limits: for the answer without them, which may fit after all;
# of what is left then for recombined answers.
_FREE, _RECOMBINING = 0.5, 0.6
# Meshes whose answers are improved in neighbourhoods: the best few, if they cost
# hardly more than the best.
_MOST_IMPROVED, _MOST_DEARER = 3, 0.05
# Share of the time for limits that this takes once more at an impatient level: of 100
# variables or fewer all of it, which an MLP of 29 needs for the best answer. A scanned
# GPT on 128x8 gained 0.001 % by four times as much (2 cores, 2026-11).
_IMPROVING, _MAX_QUICK_VARIABLES = 0.25, 100


@dataclass(frozen=True, slots=True)
class Effort:
    """How far a level goes.

    Attributes:
        gap: Share of the best cost that a bound may miss.
        is_patient: Whether an exact run may take all the time that is left, and
            answers are recombined for as long.
    """

    gap: float
    is_patient: bool


O2 = Effort(gap=PROVEN, is_patient=False)
O3 = Effort(gap=CLOSED, is_patient=True)


def prove(
    candidates: Sequence[Candidate],
    limit: float,
    clock: Clock,
    *,
    effort: Effort,
    progress: Progress,
) -> list[Candidate]:
    """The candidates with better answers; most promising mesh first.

    None of them gets worse.

    Args:
        candidates: With answers, but for those that are ruled out.
        limit: Of the memory of one device [B].
        clock: Of the whole search.
        effort: Of the level.
        progress: Told of each mesh.
    """
    order = sorted(candidates, key=lambda c: c.rank(limit))
    proven: list[Candidate] = []
    best = best_cost(order, limit)
    # Those that are ruled out already take no share of the time.
    num_open = sum(_is_open(candidate, best, effort) for candidate in order)
    for number, candidate in enumerate(order):
        if not _is_open(candidate, best, effort) or clock.is_over():
            proven.append(candidate)
            continue
        progress(f"solving mesh {candidate.mesh}", number / len(order))
        outcome = _Solving(candidate, clock, effort).run(best, share=1 / num_open)
        if outcome.peak <= limit:
            best = min(best, outcome.cost)
        proven.append(replace(candidate, outcome=outcome))
    return _improved(proven, limit, clock, effort=effort, progress=progress)


def _is_open(candidate: Candidate, best: float, effort: Effort) -> bool:
    """Whether a mesh may have a better answer than the best, or prove that one."""
    return candidate.outcome is not None and candidate.bound < best * (1 - effort.gap)


def _improved(
    candidates: Sequence[Candidate],
    limit: float,
    clock: Clock,
    *,
    effort: Effort,
    progress: Progress,
) -> list[Candidate]:
    """The candidates with better answers of the best few that their limit binds."""
    found = list(candidates)
    best = best_cost(found, limit)
    order = sorted(range(len(found)), key=lambda at: found[at].rank(limit))
    worth = [
        at
        for at in order[:_MOST_IMPROVED]
        if found[at].limited.binds
        and found[at].rank(limit) <= (0.0, best * (1 + _MOST_DEARER))
        and _is_open(found[at], best, effort)
    ]
    for number, at in enumerate(worth):
        candidate = found[at]
        count = candidate.problem.network.num_variables
        takes_all = effort.is_patient or count <= _MAX_QUICK_VARIABLES
        share = 1.0 if takes_all else _IMPROVING
        progress(f"improving mesh {candidate.mesh}", number / len(worth))
        search = candidate.limited
        neighbourhoods = Neighbourhoods(
            candidate.problem.network, candidate.memory, search=search
        )
        neighbourhoods.run(clock.left_for_limits(share / (len(worth) - number)))
        found[at] = replace(candidate, outcome=search.outcome)
    return found


class _Solving:
    """One mesh, solved."""

    def __init__(self, candidate: Candidate, clock: Clock, effort: Effort) -> None:
        self._candidate, self._search = candidate, candidate.limited
        self._clock, self._effort = clock, effort
        self._network = candidate.problem.network
        self._is_small = self._network.num_variables <= _MAX_CUT_VARIABLES

    def run(self, best: float, *, share: float) -> Outcome:
        """A better answer and bound.

        Args:
            best: Cost of the best answer that fits, of any mesh.
            share: Of the time for limits, for this mesh.
        """
        search, network, clock = self._search, self._network, self._clock
        most_s = clock.left
        if search.binds and not self._is_small:
            most_s = clock.left_for_limits(share * _FREE)()
        free = SharingSearch(
            network,
            search.outcome.assignment,
            time_limit_s=most_s,
            upper=best,
            is_patient=self._effort.is_patient,
        ).run()
        bound = max(self._candidate.bound, free.lower_bound)
        fits = search.offer(free.assignment).peak <= search.limit
        found = search.run(free.assignment, bound=bound, out_of_time=clock.is_over)
        if search.fitting:
            best = min(best, found.cost)
        if fits or bound >= best * (1 - self._effort.gap):
            return found
        return self._within_limit(best, left_s=clock.left_for_limits(share))

    def _within_limit(self, best: float, *, left_s: Callable[[], float]) -> Outcome:
        """By prices and cuts, where the best answer of all does not fit."""
        search, memory = self._search, self._candidate.memory
        if not self._is_small:
            recombining_s = left_s() * _RECOMBINING
            search.scatter(out_of_time=lambda: left_s() < recombining_s)
            if search.fitting:
                recombine(
                    self._network,
                    memory,
                    search=search,
                    left_s=left_s,
                    is_patient=self._effort.is_patient,
                )
                return search.outcome
        cuts = CutSearch(self._network, memory, search.limit)
        found = cuts.run(search.outcome, left_s=left_s, upper=best)
        search.offer(found.assignment)
        return found
