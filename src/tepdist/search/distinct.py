"""The best few plans of a search that are not nearly the same."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tepdist.search.arrangements import Strategy
from tepdist.search.candidates import Candidate

_MOST_DEARER = 0.1  # share of the best cost, that predictions may be off
_ALIKE = 1e-9  # share of a cost that rounding may add
_LEAST_CHANGED = 0.05  # share of the variables, on one mesh


@dataclass(frozen=True, slots=True)
class Answer:
    """An assignment of one candidate's problem.

    Attributes:
        candidate: Whose.
        assignment: Value of each variable.
        cost: Its cost [s].
    """

    candidate: Candidate
    assignment: tuple[int, ...]
    cost: float


def distinct_answers(
    best: Answer, candidates: Iterable[Candidate], *, count: int
) -> list[Answer]:
    """The best answer and others that fit, on other meshes or much changed.

    Args:
        best: Comes first.
        candidates: Of the search.
        count: Answers at most.
    """
    chosen = [best]
    known = sorted(_fitting(candidates), key=lambda answer: answer.cost)
    for answer in known:
        if len(chosen) == count or answer.cost > best.cost * (1 + _MOST_DEARER):
            break
        if all(_differ(answer, other) for other in chosen):
            chosen.append(answer)
    return chosen


def _fitting(candidates: Iterable[Candidate]) -> Iterator[Answer]:
    for candidate in candidates:
        for assignment in candidate.limited.fitting:
            cost = candidate.problem.network.cost(assignment)
            yield Answer(candidate, assignment, cost)


def _differ(first: Answer, second: Answer) -> bool:
    one, other = first.candidate.mesh, second.candidate.mesh
    if one != other:
        # Where all links are alike a plan has a twin with its axes in other places.
        are_twins = abs(first.cost - second.cost) <= _ALIKE * first.cost
        return sorted(one.shape) != sorted(other.shape) or not are_twins
    pairs = list(zip(_strategies(first), _strategies(second), strict=True))
    return sum(a != b for a, b in pairs) >= _LEAST_CHANGED * len(pairs)


def _strategies(answer: Answer) -> Iterator[Strategy]:
    spaces = answer.candidate.problem.spaces
    for space, value in zip(spaces, answer.assignment, strict=True):
        yield space.strategies[value]
