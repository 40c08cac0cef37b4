"""The solver: reduce, price the limits, then search around what was found.

reduce    -> a smaller problem with the same optimum        reduction.py
ascend    -> prices, a bound, assignments near the limits   ascent.py, messages.py
ascend    -> the same exactly, where that pays              exact.py
search    -> the best assignment within the limits          neighbourhoods.py
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.solver.ascent import Ascent
from tepdist.solver.candidates import Candidates
from tepdist.solver.clock import Clock
from tepdist.solver.layout import layout
from tepdist.solver.neighbourhoods import Neighbourhoods
from tepdist.solver.oracles import ExactOracle, MessageOracle
from tepdist.solver.problem import Problem, Solution
from tepdist.solver.reduction import Reduction, reduce

# Shares of the time that is left when a step begins, at most.
_REDUCTION_SHARE = 0.4
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
    clock = Clock(time_limit_s)
    reduction = reduce(problem, is_out_of_time=clock.past(_REDUCTION_SHARE))
    found = _solve_reduced(reduction, start, clock=clock, seed=seed)
    known = [] if start is None else [tuple(start)]
    if found.assignment is not None:
        known.append(reduction.expand(found.assignment))
    if not known:
        known.append(tuple(int(costs.argmin()) for costs in problem.unary))
    best = min(known, key=lambda assignment: _rank(problem, assignment))
    cost = problem.cost(best)
    is_feasible = problem.is_feasible(best)
    bound = min(found.bound, cost) if is_feasible else found.bound
    return Solution(best, cost, is_feasible, bound)


def _rank(problem: Problem, assignment: Sequence[int]) -> tuple[bool, float, float]:
    cost = problem.cost(assignment)
    return (not np.isfinite(cost), problem.overflow(assignment), cost)


@dataclass(frozen=True, slots=True)
class _Found:
    """The best assignment of a reduced problem, if any, and a lower bound."""

    assignment: tuple[int, ...] | None
    bound: float


def _solve_reduced(
    reduction: Reduction, start: Sequence[int] | None, *, clock: Clock, seed: int
) -> _Found:
    problem = reduction.problem
    if not np.isfinite(problem.constant):
        return _Found(None, np.inf)
    if not problem.num_variables:
        return _Found((), problem.constant)
    flat = layout(problem)
    candidates = Candidates(problem, flat)
    known = None if start is None else reduction.contract(start)
    if known is not None:
        candidates.offer(known)
    ascent = Ascent(problem, flat, candidates)
    oracle = MessageOracle(ascent, is_out_of_time=clock.past(_SWEEPING_SHARE))
    _ascend(ascent, oracle, clock)
    if ascent.gap() <= _GAP:
        return _Found(candidates.best, ascent.bound)
    search = Neighbourhoods(
        ascent, marginals=oracle.marginals(ascent.prices), seed=seed
    )
    search.run(clock.left_s)
    return _Found(candidates.best, search.bound)


def _ascend(ascent: Ascent, oracle: MessageOracle, clock: Clock) -> None:
    """Raises the bound until it is met, or the time for that has passed."""
    _step(ascent, ascent.run(oracle), clock.past(_PASSING_SHARE))
    _step(ascent, ascent.press(oracle), clock.past(_PRESSING_SHARE))
    size = sum(table.size for table in ascent.problem.edges.values())
    call_s = max(1.0, clock.left_s() * _EXACT_CALL_SHARE)
    if size <= _MOST_EXACT_ELEMENTS and clock.left_s() > 2 * call_s:
        exactly = ExactOracle(oracle, time_limit_s=call_s)
        is_out_of_time = clock.past(_EXACT_SHARE)
        _step(
            ascent,
            ascent.run(exactly),
            lambda: is_out_of_time() or not exactly.is_complete,
        )


def _step(ascent: Ascent, steps: Iterator[None], is_enough: Callable[[], bool]) -> None:
    while ascent.gap() > _GAP and not is_enough():
        if next(steps, _END) is _END:
            return


_END = object()
