"""The limit held against what the compiler is expected to allocate, too.

The network knows the memory of live ranges. What the compiler allocates differs by its
order of kernels and its copies, and is known of a decoded plan alone. Where that is
above the limit, the network's limit is lowered by the excess and the search goes on
from its prices, a few times; once a plan is allocated within the limit, the network's
limit is raised again halfway, for a cheaper one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tepdist.plans.types import Stage
from tepdist.search.candidates import Candidate, Question
from tepdist.search.limited import LimitedSearch
from tepdist.search.relaxation import Relaxation
from tepdist.search.staging import make_stage

_LOWERINGS = 3


@dataclass(frozen=True, slots=True)
class Staged:
    """A candidate whose answer was decoded."""

    candidate: Candidate
    stage: Stage

    @property
    def cost(self) -> float:
        """Of the answer [s]."""
        assert self.candidate.outcome is not None
        return self.candidate.outcome.cost


def allocated_within(
    question: Question,
    candidates: Sequence[Candidate],
    *,
    out_of_time: Callable[[], bool],
) -> Staged:
    """The cheapest plan found that is allocated within the limit.

    The same whenever the answers are the same, whatever else was looked at since.

    Args:
        question: What is asked.
        candidates: With their answers, one of which keeps the limit at least.
        out_of_time: Asked between searches.

    Returns:
        The best answer if that is allocated within the limit; the plan of least
        allocated memory if none is.
    """
    limit = question.limit
    chosen = min(candidates, key=lambda candidate: candidate.rank(limit))
    best = last = _decoded(question, chosen)
    least = min(candidate.least_peak for candidate in candidates)
    lowered, too_high = limit, limit
    for _ in range(_LOWERINGS):
        if best.stage.memory.allocated <= limit or out_of_time():
            break
        too_high = lowered
        excess = last.stage.memory.allocated - limit
        # Halfway to the least that any plan takes at most: there few are left.
        lowered -= min(excess, (lowered - least) / 2)
        found = _answered(candidates, lowered, out_of_time)
        if found is None:
            break
        last = _decoded(question, found)
        best = better(best, last, limit)
    if best.stage.memory.allocated <= limit and lowered < limit and not out_of_time():
        found = _answered(candidates, (lowered + too_high) / 2, out_of_time)
        best = best if found is None else better(best, _decoded(question, found), limit)
    return best


def better(one: Staged, other: Staged, limit: float) -> Staged:
    """The one that is allocated less above the limit, or else is cheaper."""
    return min(one, other, key=lambda staged: _rank(staged, limit))


def _decoded(question: Question, candidate: Candidate) -> Staged:
    """A candidate with the stage that its answer means."""
    assert candidate.outcome is not None
    stage = make_stage(
        question.structure,
        candidate.problem,
        candidate.outcome.assignment,
        memory=candidate.memory,
    )
    return Staged(candidate, stage)


def _rank(staged: Staged, limit: float) -> tuple[float, float]:
    """Order of plans, best first: least allocated above the limit, then cheapest."""
    return (max(staged.stage.memory.allocated - limit, 0.0), staged.cost)


def _answered(
    candidates: Sequence[Candidate], limit: float, out_of_time: Callable[[], bool]
) -> Candidate | None:
    """An answer within a lower limit on the most promising mesh that has one."""
    order = sorted(candidates, key=lambda each: each.rank(each.limited.limit))
    for candidate in order:
        outcome = candidate.outcome
        if outcome is None or candidate.least_peak > limit or out_of_time():
            continue
        search = LimitedSearch(
            candidate.problem.network,
            candidate.memory,
            limit,
            relaxation=Relaxation(candidate.problem.network),
        )
        search.run(
            outcome.assignment,
            bound=candidate.bound,
            out_of_time=out_of_time,
            prices=outcome.prices,
        )
        if search.fitting:
            # The search's own bound is of the lower limit.
            outcome = replace(search.outcome, lower_bound=candidate.bound)
            return replace(candidate, limited=search, outcome=outcome)
    return None
