"""The limit held against what the compiler is expected to allocate, too.

The network knows the memory of live ranges. What the compiler allocates differs by its
order of kernels and its copies, and is known of a decoded plan alone. Where that is
above the limit, the network's limit is lowered by the excess, or half of it where
nothing goes as low, and the search goes on from its prices, a few times; once a plan is
allocated within the limit, the network's limit is raised again halfway, for a cheaper
one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tepdist.plans.types import Stage
from tepdist.search.candidates import Candidate, Question
from tepdist.search.limited import LimitedSearch
from tepdist.search.staging import make_stage

_LOWERINGS = 3
_RAISES = 1


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


def decoded(question: Question, candidate: Candidate) -> Staged:
    """A candidate with the stage that its answer means."""
    assert candidate.outcome is not None
    stage = make_stage(
        question.structure,
        candidate.problem,
        candidate.outcome.assignment,
        memory=candidate.memory,
    )
    return Staged(candidate, stage)


def allocated_within(
    question: Question,
    candidates: Sequence[Candidate],
    chosen: Staged,
    *,
    out_of_time: Callable[[], bool],
) -> Staged:
    """The cheapest plan found that is allocated within the limit.

    Args:
        question: What is asked.
        candidates: With their answers.
        chosen: The best of them by the memory of live ranges.
        out_of_time: Asked between searches.

    Returns:
        `chosen` if that is allocated within the limit; the plan of least allocated
        memory if none is.
    """
    limit = question.limit
    best = last = chosen
    lowered, too_high = limit, limit
    for _ in range(_LOWERINGS):
        if best.stage.memory.allocated <= limit or out_of_time():
            break
        asked = lowered - (last.stage.memory.allocated - limit)
        found = _answered(candidates, asked, out_of_time)
        if found is None:  # nothing goes as low
            asked = (lowered + max(asked, 0.0)) / 2
            found = _answered(candidates, asked, out_of_time)
        if found is None:
            break
        too_high, lowered = lowered, asked
        last = decoded(question, found)
        best = min(best, last, key=lambda staged: _rank(staged, limit))
    for _ in range(_RAISES):
        if best.stage.memory.allocated > limit or too_high == lowered or out_of_time():
            break
        middle = (lowered + too_high) / 2
        found = _answered(candidates, middle, out_of_time)
        if found is None:
            break
        last = decoded(question, found)
        best = min(best, last, key=lambda staged: _rank(staged, limit))
        if last.stage.memory.allocated <= limit:
            lowered = middle
        else:
            too_high = middle
    return best


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
            relaxation=candidate.relaxation,
        )
        search.run(
            outcome.assignment,
            bound=candidate.bound,
            out_of_time=out_of_time,
            prices=outcome.prices,
        )
        for assignment in candidate.limited.fitting:
            search.offer(assignment)
        if search.fitting:
            # The search's own bound is of the lower limit.
            outcome = replace(search.outcome, lower_bound=candidate.bound)
            return replace(candidate, limited=search, outcome=outcome)
    return None
