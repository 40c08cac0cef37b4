"""The solver against exhaustive enumeration, and its laws on larger networks."""

import itertools
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tepdist.solver.layout import layout
from tepdist.solver.messages import Messages
from tepdist.solver.problem import Problem, Usage
from tepdist.solver.reduction import reduce
from tepdist.solver.solve import solve

SEEDS = range(60)
NUM_TIMES = 8


def problem(seed: int, *, num_variables: int = 6, tightness: float = 0.4) -> Problem:
    """Random whole costs, some forbidden, some variables tied, limits that bind.

    Args:
        seed: Of all that is drawn.
        num_variables: Each with up to 4 values.
        tightness: 0 for limits at the sum of least usages, 1 at that of greatest.
    """
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 5, size=num_variables)
    scale = int(10 ** random.integers(0, 7))
    unary = [scale * random.integers(0, 20, size).astype(float) for size in sizes]
    edges = {}
    for i, j in itertools.combinations(range(num_variables), 2):
        if random.random() < 3 / num_variables:
            table = scale * random.integers(0, 20, (sizes[i], sizes[j])).astype(float)
            if random.random() < 0.2 and sizes[i] == sizes[j]:
                table[~np.eye(sizes[i], dtype=bool)[random.permutation(sizes[i])]] = (
                    np.inf
                )
            table[random.random(table.shape) < 0.1] = np.inf
            if num_variables > 10:  # most such would not be feasible else
                table[0, 0] = 19.0 * scale
            edges[i, j] = table
    usages = []
    for variable in range(num_variables):
        for _ in range(random.integers(0, 3)):
            start = int(random.integers(0, NUM_TIMES))
            end = int(random.integers(start, NUM_TIMES + 1))
            amounts = random.integers(0, 50, sizes[variable]).astype(float)
            usages.append(Usage(variable, start, end, amounts))
    least, most = (_profile(usages, extreme) for extreme in (np.min, np.max))
    limits = np.full(NUM_TIMES, float((least + tightness * (most - least)).max()))
    return Problem(tuple(unary), edges, tuple(usages), limits)


def _profile(usages: list[Usage], extreme) -> np.ndarray:
    profile = np.zeros(NUM_TIMES)
    for usage in usages:
        profile[usage.start : usage.end] += extreme(usage.amounts)
    return profile


def cost_and_fit(drawn: Problem, assignment: tuple[int, ...]) -> tuple[float, bool]:
    """Cost and whether every limit is kept, by the definition."""
    cost = drawn.constant
    cost += sum(costs[v] for costs, v in zip(drawn.unary, assignment, strict=True))
    for (i, j), table in drawn.edges.items():
        cost += table[assignment[i], assignment[j]]
    fits = np.isfinite(cost)
    for t, limit in enumerate(drawn.limits):
        live = (u for u in drawn.usages if u.start <= t < u.end)
        fits &= sum(u.amounts[assignment[u.variable]] for u in live) <= limit
    return float(cost), bool(fits)


def assignments(drawn: Problem) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(len(costs)) for costs in drawn.unary))


def least_cost(drawn: Problem) -> float:
    """Of all feasible assignments; infinite if there is none."""
    outcomes = (cost_and_fit(drawn, assignment) for assignment in assignments(drawn))
    return min((cost for cost, fits in outcomes if fits), default=np.inf)


@pytest.mark.parametrize("seed", SEEDS)
def test_answer_is_the_best_of_all(seed):
    drawn = problem(seed)
    best = least_cost(drawn)
    found = solve(drawn, time_limit_s=20, seed=seed)
    cost, fits = cost_and_fit(drawn, found.assignment)
    assert found.is_feasible == fits == np.isfinite(best)
    assert found.cost == cost
    assert found.lower_bound <= best
    if fits:
        assert cost == best


@pytest.mark.parametrize("seed", SEEDS)
def test_reduction_keeps_the_optimum_and_every_cost(seed):
    drawn = problem(seed)
    reduction = reduce(drawn, is_out_of_time=lambda: False)
    smaller = reduction.problem
    best = least_cost(drawn)
    if not np.isfinite(smaller.constant):
        assert best == np.inf
        return
    assert least_cost(smaller) == best
    for assignment in assignments(smaller):
        cost, fits = cost_and_fit(smaller, assignment)
        if fits:
            assert cost_and_fit(drawn, reduction.expand(assignment)) == (cost, True)


@pytest.mark.parametrize("seed", SEEDS)
def test_reduction_out_of_time_keeps_the_optimum(seed):
    drawn = problem(seed)
    calls = itertools.count()
    reduction = reduce(drawn, is_out_of_time=lambda: next(calls) > seed % 7)
    if np.isfinite(reduction.problem.constant):
        assert least_cost(reduction.problem) == least_cost(drawn)


@pytest.mark.parametrize("seed", SEEDS)
def test_messages_never_bound_above_the_optimum(seed):
    drawn = problem(seed, tightness=1.0)
    smaller = reduce(drawn, is_out_of_time=lambda: False).problem
    if not np.isfinite(smaller.constant) or not smaller.num_variables:
        return
    best = min(smaller.cost(assignment) for assignment in assignments(smaller))
    flat = layout(smaller)
    messages = Messages(flat, smaller.edges)
    bounds = [messages.improve(flat.unary) for _ in range(10)]
    assert max(bounds) + smaller.constant <= best * (1 + 1e-9)
    network = messages.reparametrized(flat.unary)
    for assignment in itertools.islice(assignments(smaller), 50):
        moved = network.constant
        moved += sum(c[v] for c, v in zip(network.unary, assignment, strict=True))
        for (i, j), table in zip(smaller.edges, network.tables, strict=True):
            moved += table[assignment[i], assignment[j]]
        assert moved + smaller.constant == pytest.approx(smaller.cost(assignment))


@pytest.mark.parametrize("seed", range(4))
def test_larger_network_within_its_limits_in_time(seed):
    drawn = problem(seed, num_variables=120)
    began = time.monotonic()
    found = solve(drawn, time_limit_s=3, seed=seed)
    assert time.monotonic() - began < 4.5
    cost, fits = cost_and_fit(drawn, found.assignment)
    assert found.is_feasible == fits
    assert found.lower_bound <= found.cost == cost


def test_answer_is_never_worse_than_the_start():
    drawn = problem(3, num_variables=60, tightness=0.8)
    good = solve(drawn, time_limit_s=2)
    again = solve(drawn, time_limit_s=0, start=good.assignment)
    assert good.is_feasible
    assert again.is_feasible
    assert again.cost <= good.cost


def test_same_seed_gives_the_same_answer():
    drawn = problem(5, num_variables=30, tightness=0.6)
    first, second = (solve(drawn, time_limit_s=20, seed=1) for _ in range(2))
    assert first == second


def test_no_variables_cost_the_constant():
    empty = Problem((), {}, (), np.zeros(0), constant=3.0)
    found = solve(empty, time_limit_s=1)
    assert (found.assignment, found.cost, found.is_feasible) == ((), 3.0, True)
    assert found.lower_bound == 3.0


def test_forbidden_everywhere_is_not_feasible():
    forbidden = Problem((np.array([np.inf, np.inf]),), {}, (), np.zeros(0))
    found = solve(forbidden, time_limit_s=1)
    assert not found.is_feasible
    assert found.lower_bound == np.inf


def test_limit_below_the_least_usage_is_not_feasible():
    usage = Usage(0, 0, 1, np.array([5.0, 9.0]))
    tight = Problem((np.array([2.0, 1.0]),), {}, (usage,), np.array([4.0]))
    found = solve(tight, time_limit_s=1)
    assert not found.is_feasible
    assert found.assignment == (0,)
