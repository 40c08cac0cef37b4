"""The solver: reduce, price the limits, then search around what was found.

reduce    -> a smaller problem with the same optimum        reduction.py
ascend    -> prices, a bound, assignments near the limits   ascent.py, messages.py
ascend    -> the same exactly, where that pays              exact.py
search    -> the best assignment within the limits          neighbourhoods.py
"""

from collections.abc import Callable, Iterator, Sequence
from time import monotonic

import numpy as np

from tepdist.solver.ascent import Ascent
from tepdist.solver.candidates import Candidates
from tepdist.solver.layout import layout
from tepdist.solver.neighbourhoods import Neighbourhoods
from tepdist.solver.oracles import Relaxation
from tepdist.solver.problem import Problem, Solution
from tepdist.solver.reduction import Reduction, reduce

_REDUCTION_SHARE = 0.4  # of the time, at most
_SWEEPING_SHARE = 0.6
_PASSING_SHARE = 0.4
_PRESSING_SHARE = 0.3
_EXACT_SHARE = 0.5
_EXACT_CALL_SHARE = 0.05
# Elements of all tables: above, toulbar2 takes too long for one set of prices.
_MOST_EXACT_ELEMENTS = 1_500_000
_GAP = 1e-6  # relative, at which an answer is as good as proven


def solve(
    problem: Problem,
    *,
    time_limit_s: float,
    start: Sequence[int] | None = None,
    seed: int = 0,
) -> Solution:
    """The best assignment found in a time, and a lower bound.

    Args:
        problem: Costs finite or infinite, usages at least 0.
        time_limit_s: After which the best so far is returned [s].
        start: An assignment; what is returned is never worse.
        seed: Of what is drawn at random.
    """
    search = _Search(time_limit_s, seed)
    reduction = reduce(problem, is_out_of_time=search.past(_REDUCTION_SHARE))
    found, bound = search.run(reduction, start)
    known = [tuple(start)] if start is not None else []
    if found is not None:
        known.append(reduction.expand(found))
    if not known:
        known.append(tuple(int(costs.argmin()) for costs in problem.unary))
    best = min(known, key=lambda assignment: _rank(problem, assignment))
    cost = problem.cost(best)
    is_feasible = problem.is_feasible(best)
    return Solution(best, cost, is_feasible, min(bound, cost) if is_feasible else bound)


def _rank(problem: Problem, assignment: Sequence[int]) -> tuple[bool, float, float]:
    cost = problem.cost(assignment)
    return (not np.isfinite(cost), problem.overflow(assignment), cost)


class _Search:
    """One search within a time."""

    def __init__(self, time_limit_s: float, seed: int) -> None:
        self._began = monotonic()
        self._limit_s = time_limit_s
        self._seed = seed

    def left_s(self) -> float:
        return self._began + self._limit_s - monotonic()

    def past(self, share: float) -> Callable[[], bool]:
        """Whether a share of the time that is left now has passed."""
        until = monotonic() + share * max(0.0, self.left_s())
        return lambda: monotonic() >= until

    def run(
        self, reduction: Reduction, start: Sequence[int] | None
    ) -> tuple[tuple[int, ...] | None, float]:
        """The best assignment of the reduced problem, if any, and a lower bound."""
        problem = reduction.problem
        if not np.isfinite(problem.constant):
            return None, np.inf
        if not problem.num_variables:
            return (), problem.constant
        flat = layout(problem)
        candidates = Candidates(problem, flat)
        ascent = Ascent(problem, flat, candidates)

        def is_good_enough() -> bool:
            cost = candidates.feasible_cost
            return np.isfinite(cost) and cost - ascent.bound <= _GAP * abs(cost)

        relaxation = Relaxation(
            problem, flat, candidates, is_out_of_time=self.past(_SWEEPING_SHARE)
        )
        passing = relaxation.passing(ascent)
        self._ascend(ascent.run(passing), _PASSING_SHARE, is_good_enough)
        self._ascend(ascent.press(passing), _PRESSING_SHARE, is_good_enough)
        size = sum(table.size for table in problem.edges.values())
        if size <= _MOST_EXACT_ELEMENTS and not is_good_enough():
            call_s = max(1.0, self._limit_s * _EXACT_CALL_SHARE)
            if self.left_s() > 2 * call_s:
                oracle = relaxation.exactly(ascent, call_s)
                self._ascend(
                    ascent.run(oracle),
                    _EXACT_SHARE,
                    lambda: is_good_enough() or not relaxation.is_exact,
                )
        if is_good_enough():
            return candidates.best, ascent.bound
        search = Neighbourhoods(
            problem,
            flat,
            candidates,
            marginals=relaxation.marginals(ascent.unary(ascent.prices)),
            bound=ascent.bound,
            seed=self._seed,
        )
        search.run(self.left_s)
        return candidates.best, search.bound

    def _ascend(
        self, steps: Iterator[None], share: float, enough: Callable[[], bool]
    ) -> None:
        is_out_of_time = self.past(share)
        for _ in steps:
            if is_out_of_time() or enough():
                break
