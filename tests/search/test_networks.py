"""Networks: descent, the solver and the search within limits against brute force."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest

from tepdist.search.copies import Copied, Move
from tepdist.search.cuts import CutSearch
from tepdist.search.descent import Descent
from tepdist.search.limited import LimitedSearch, Outcome
from tepdist.search.linear import Limited, solve_within
from tepdist.search.memory import Term
from tepdist.search.neighbourhoods import Neighbourhoods
from tepdist.search.network import Network
from tepdist.search.recombination import recombine
from tepdist.search.relaxation import Relaxation
from tepdist.search.shared import Choice, Shared
from tepdist.search.sharing import SharingSearch
from tepdist.search.solver import solve
from tepdist.search.within import Within

SEEDS = range(40)
NUM_TIMES = 3


def network(seed: int, *, num_variables: int = 6) -> Network:
    """Random costs over a few orders of magnitude, usages, and limits that bind."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 5, size=num_variables)
    scale = 10.0 ** random.integers(-9, 1)
    unary = tuple(scale * random.random(size) for size in sizes)
    binary = {
        (i, j): scale * random.random((sizes[i], sizes[j])) * random.integers(0, 3)
        for i, j in itertools.combinations(range(num_variables), 2)
        if random.random() < 0.6
    }
    usages = tuple(
        random.integers(0, 50, size=(size, NUM_TIMES)).astype(float) for size in sizes
    )
    # Between whole numbers, so that rounding decides nothing.
    limits = np.floor(sum(usage.mean(axis=0) for usage in usages)) + 0.5
    shared = tuple(
        _shared(random, sizes, scale=scale) for _ in range(random.integers(0, 3))
    )
    return Network(unary, binary, shared, usages, limits, np.zeros(NUM_TIMES))


def _shared(random, sizes, *, scale: float) -> Shared:
    rows, columns = random.integers(1, 4, size=2)
    variables = random.choice(len(sizes), size=random.integers(2, 5))
    payer, *readers = [
        Choice(int(v), random.integers(rows if first else columns + 1, size=sizes[v]))
        for v, first in zip(variables, [True] + [False] * 9, strict=False)
    ]
    table = scale * random.random((rows, columns + 1)) * random.integers(0, 3)
    table[:, 0] = 0
    return Shared(payer, tuple(readers), table)


def assignments(net: Network):
    return itertools.product(*(range(len(costs)) for costs in net.unary))


def cheapest(net: Network) -> float:
    return min(net.cost(assignment) for assignment in assignments(net))


def start(net: Network) -> tuple[int, ...]:
    return (0,) * net.num_variables


def test_cost_is_the_sum_of_what_is_chosen():
    net = Network(
        (np.array([1.0, 2.0]), np.array([10.0, 20.0, 30.0])),
        {(0, 1): np.array([[100.0, 200.0, 300.0], [400.0, 500.0, 600.0]])},
        (),
        (np.array([[1.0], [2.0]]), np.array([[3.0], [4.0], [5.0]])),
        np.array([6.0]),
        np.array([1.0]),
    )
    assert net.cost((1, 2)) == 2 + 30 + 600
    assert net.usage((1, 2)).tolist() == [1 + 2 + 5]
    assert net.fits((0, 1))
    assert not net.fits((0, 2))


@pytest.mark.parametrize("seed", SEEDS)
def test_prices_add_the_price_of_what_is_used(seed):
    net = network(seed)
    prices = np.random.default_rng(seed).random(NUM_TIMES)
    priced = net.priced(prices)
    for assignment in itertools.islice(assignments(net), 50):
        expected = net.cost(assignment) + float(net.usage(assignment) @ prices)
        assert priced.cost(assignment) == pytest.approx(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_descent_is_never_worse_than_its_start(seed):
    net = network(seed)
    descent = Descent(net)
    for assignment in itertools.islice(assignments(net), 20):
        improved = descent.improve(assignment)
        assert net.cost(improved) <= net.cost(assignment) * (1 + 1e-12)
        # And no change of a single variable helps any more.
        for variable, costs in enumerate(net.unary):
            for value in range(len(costs)):
                other = (*improved[:variable], value, *improved[variable + 1 :])
                assert net.cost(other) >= net.cost(improved) * (1 - 1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_solver_finds_what_brute_force_finds(seed):
    net = network(seed)
    best = cheapest(net)
    found = solve(net, start(net), time_limit_s=30)
    assert found.cost == net.cost(found.assignment)
    assert found.cost == pytest.approx(best, rel=1e-6)
    assert found.lower_bound <= best * (1 + 1e-6)
    assert found.lower_bound >= best * (1 - 1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_upper_bound_below_the_best_is_proven_or_passed_over(seed):
    net = network(seed)
    best = cheapest(net)
    hopeless = solve(net, start(net), time_limit_s=30, upper=best / 2)
    assert best / 2 * (1 - 1e-6) <= hopeless.lower_bound <= best * (1 + 1e-6)
    assert hopeless.cost == net.cost(hopeless.assignment)
    useful = solve(net, start(net), time_limit_s=30, upper=best * 1.01)
    assert useful.cost == pytest.approx(best, rel=1e-6)


def test_a_start_that_costs_nothing_is_returned():
    net = Network((np.zeros(2),), {}, (), (np.zeros((2, 0)),), np.zeros(0), np.zeros(0))
    found = solve(net, (1,), time_limit_s=30)
    assert found.assignment == (1,)
    assert found.cost == found.lower_bound == 0


def test_a_hard_network_ends_in_time_with_a_bound():
    random = np.random.default_rng(0)
    count, size = 60, 12
    hard = Network(
        tuple(random.random(size) for _ in range(count)),
        {
            (i, j): random.random((size, size))
            for i, j in itertools.combinations(range(count), 2)
            if random.random() < 0.2
        },
        (),
        tuple(np.zeros((size, 0)) for _ in range(count)),
        np.zeros(0),
        np.zeros(0),
    )
    begin = Descent(hard).improve(start(hard))
    started_s = time.monotonic()
    found = solve(hard, begin, time_limit_s=1)
    assert time.monotonic() - started_s < 10
    assert found.lower_bound < found.cost <= hard.cost(begin)


def copies(net: Network, seed: int) -> list[list[Copied]]:
    """At each time some copies that pairs of variables make, in use between them."""
    random = np.random.default_rng((seed, 1))
    moves = [_move(net, random) for _ in range(6)]

    def some() -> tuple[Move, ...]:
        return tuple(random.choice(moves, size=random.integers(1, 4)).tolist())

    return [
        [
            Copied(float(random.integers(1, 60)), some(), some())
            for _ in range(random.integers(0, 5))
        ]
        for _ in range(NUM_TIMES)
    ]


def _move(net: Network, random) -> Move:
    source, target = (int(v) for v in random.integers(net.num_variables, size=2))
    rows, columns = random.integers(1, 4, size=2)
    return Move(
        source,
        target,
        random.integers(rows, size=len(net.unary[source])),
        random.integers(columns, size=len(net.unary[target])),
        random.random((rows, columns)) < 0.6,
    )


def copied_bytes(copied: list[list[Copied]], assignment) -> np.ndarray:
    """What is in use of copies at each time."""

    def is_any_made(moves) -> bool:
        return any(m.made()[assignment[m.source], assignment[m.target]] for m in moves)

    return np.array(
        [
            sum(c.bytes_ for c in at if is_any_made(c.before) and is_any_made(c.after))
            for at in copied
        ]
    )


@pytest.mark.parametrize("seed", range(150))
def test_within_limits_the_program_finds_what_brute_force_finds(seed):
    net = network(seed, num_variables=5)
    copied = copies(net, seed)
    clause = tuple(enumerate(start(net)))[: 1 + seed % 4]
    fitting = [
        a
        for a in assignments(net)
        if np.all(net.usage(a) + copied_bytes(copied, a) <= net.limits)
        and any(a[variable] != value for variable, value in clause)
    ]
    best = min(map(net.cost, fitting), default=np.inf)
    limited = Limited(net, copied, [clause])
    reference = net.cost(start(net))
    for known in (None, fitting[-1] if fitting else None):
        found = solve_within(
            limited, start=known, reference=reference, upper=np.inf, time_limit_s=30
        )
        assert found.lower_bound == pytest.approx(best, rel=1e-6)
        assert (found.assignment is None) == (not fitting)
        if found.assignment is not None:
            assert found.assignment in fitting
            assert net.cost(found.assignment) == pytest.approx(best, rel=1e-6)
    if fitting:
        beaten = solve_within(
            limited, reference=reference, upper=best / 2, time_limit_s=30
        )
        assert beaten.assignment is None
        assert beaten.lower_bound == pytest.approx(best / 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_messages_bound_the_best_from_both_sides(seed):
    net = network(seed)
    best = cheapest(net)
    relaxation = Relaxation(net)
    bounds = []
    for _ in range(5):
        relaxation.sweep(2)
        bounds.append(relaxation.bound)
    assert bounds == sorted(bounds)
    assert bounds[-1] <= best * (1 + 1e-9)
    assert net.cost(relaxation.rounded()) >= best * (1 - 1e-9)


def test_messages_find_nearly_the_best_of_networks_without_shared_costs():
    costs = []
    for seed in SEEDS:
        net = replace(network(seed), shared=())
        relaxation = Relaxation(net)
        relaxation.sweep(20)
        costs.append(net.cost(relaxation.rounded()) / cheapest(net))
    assert np.median(costs) <= 1 + 1e-9


def test_sweeps_end_at_a_bound_that_is_enough():
    relaxation, other = Relaxation(network(0)), Relaxation(network(0))
    relaxation.sweep(1)
    other.sweep(20, enough=relaxation.bound / 2)
    assert other.bound == relaxation.bound


class Usages:
    """The usages of a network as memory over time."""

    fixed = 0.0

    def __init__(self, net: Network, copied=((),) * NUM_TIMES) -> None:
        self._net = net
        self._copied = copied

    def profile(self, assignment):
        return self._net.usage(assignment) + copied_bytes(self._copied, assignment)

    def least_profile(self):
        return sum(usage.min(axis=0) for usage in self._net.usages)

    def usages(self, times):
        return tuple(usage[:, times] for usage in self._net.usages)

    def copied(self, time):
        return self._copied[time]

    def terms(self, assignment, time):
        for variable, value in enumerate(assignment):
            used = float(self._net.usages[variable][value, time])
            yield Term(used, (variable,), is_copy=False)

    def priced(self, network, prices, *, spanning):
        multipliers = np.zeros(NUM_TIMES)
        for at, price in prices.items():
            multipliers[at] = price
        return network.priced(multipliers)


def limited_search(net: Network) -> LimitedSearch:
    limit = float(net.limits.min())
    return LimitedSearch(net, Usages(net), limit, relaxation=Relaxation(net))


def never() -> bool:
    return False


def fitting_costs(net: Network, limit: float) -> list[float]:
    return [net.cost(a) for a in assignments(net) if net.usage(a).max() <= limit]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_limited_search_fits_if_it_says_so_and_its_bound_holds(seed):
    net = network(seed)
    search = limited_search(net)
    found = search.run(start(net), bound=0.0, out_of_time=never)
    assert found.cost == net.cost(found.assignment)
    assert found.peak == net.usage(found.assignment).max()
    fitting = fitting_costs(net, search.limit)
    if fitting:
        assert found.lower_bound <= min(fitting) * (1 + 1e-6)
    if found.peak <= search.limit:
        assert found.cost >= min(fitting) * (1 - 1e-9)


def test_a_limited_search_mostly_finds_what_fits():
    num_feasible = num_found = 0
    for seed in SEEDS:
        net = network(seed)
        search = limited_search(net)
        found = search.run(start(net), bound=0.0, out_of_time=never)
        num_feasible += bool(fitting_costs(net, search.limit))
        num_found += found.peak <= search.limit
    assert num_found >= 0.95 * num_feasible > 0


def test_more_prices_and_recombined_answers_are_never_worse_and_mostly_the_best():
    gaps = []
    for seed in SEEDS[:12]:
        net = network(seed)
        search = limited_search(net)
        first = search.run(start(net), bound=0.0, out_of_time=never)
        if not search.fitting:
            continue
        scattered = search.scatter(out_of_time=never)
        recombine(net, Usages(net), search=search, left_s=lambda: 30.0)
        assert search.outcome.cost <= scattered.cost <= first.cost
        assert search.outcome.peak <= search.limit
        gaps.append(search.outcome.cost / min(fitting_costs(net, search.limit)))
    assert np.median(gaps) <= 1 + 1e-9


# HiGHS's presolve cuts off the best answer of the last one.
@pytest.mark.parametrize(
    ("seed", "num_variables"), [*((seed, 5) for seed in SEEDS), (14, 6)]
)
def test_cuts_find_the_best_that_fits_and_prove_it(seed, num_variables):
    net = network(seed, num_variables=num_variables)
    memory = Usages(net, copies(net, seed))
    limit = float(net.limits.max())
    fitting = [a for a in assignments(net) if memory.profile(a).max() <= limit]
    known = Outcome(
        start(net), net.cost(start(net)), memory.profile(start(net)).max(), None
    )
    cuts = CutSearch(replace(net, usages=(), limits=np.zeros(0)), memory, limit)
    found = cuts.run(known, left_s=lambda: 30.0, upper=np.inf)
    if not fitting:
        assert found.lower_bound in (None, np.inf)
        return
    best = min(map(net.cost, fitting))
    assert found.lower_bound == pytest.approx(best, rel=1e-6)
    assert found.cost == pytest.approx(best, rel=1e-6)
    assert found.assignment in fitting


def test_neighbourhoods_mostly_end_at_the_best_that_fits():
    num_best = num_feasible = 0
    for seed in SEEDS[:20]:
        net = network(seed)
        memory = Usages(net, copies(net, seed))
        search = LimitedSearch(
            net, memory, float(net.limits.max()), relaxation=Relaxation(net)
        )
        fitting = [
            a for a in assignments(net) if memory.profile(a).max() <= search.limit
        ]
        if fitting:
            search.offer(max(fitting, key=net.cost))
            Neighbourhoods(net, memory, search=search).run(lambda: 30.0)
            assert search.outcome.peak <= search.limit
            best = min(map(net.cost, fitting))
            num_feasible += 1
            num_best += search.outcome.cost <= best * (1 + 1e-6)
    assert num_best >= 0.9 * num_feasible > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_changes_of_one_variable_at_a_time_overflow_less_or_cost_less(seed):
    net = network(seed)
    limit = float(net.limits.min())
    within = Within(net, Usages(net), limit)

    def excess(assignment):
        return np.maximum(net.usage(assignment) - limit, 0).sum()

    for assignment in itertools.islice(assignments(net), 20):
        repaired = within.repaired(assignment, never)
        assert excess(repaired) <= excess(assignment)
        filled = within.filled(repaired, never)
        assert excess(filled) <= excess(repaired)
        assert net.cost(filled) <= net.cost(repaired) * (1 + 1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_repriced_messages_bound_the_repriced_network(seed):
    net = network(seed)
    relaxation = Relaxation(net)
    relaxation.sweep(5)
    other = replace(network(seed + len(SEEDS)), shared=())
    added = replace(
        net,
        unary=tuple(costs + costs.mean() for costs in net.unary),
        binary={
            (i, j): np.add.outer(net.unary[i], net.unary[j]) for i, j in other.binary
        },
    )
    relaxation.price(added)
    relaxation.sweep(5)
    assert relaxation.bound <= cheapest(added) * (1 + 1e-9)
    assert added.cost(relaxation.rounded()) >= cheapest(added) * (1 - 1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_part_of_the_values_costs_what_it_costs_among_all(seed):
    net = network(seed)
    random = np.random.default_rng(seed)
    values = [
        np.flatnonzero(random.random(len(costs)) < 0.7)
        if len(costs) > 1
        else np.arange(1)
        for costs in net.unary
    ]
    values = [own if len(own) else np.arange(1) for own in values]
    part = net.only(values)
    for assignment in assignments(part):
        whole = tuple(int(own[at]) for own, at in zip(values, assignment, strict=True))
        assert part.cost(assignment) == pytest.approx(net.cost(whole))
        assert (part.usage(assignment) == net.usage(whole)).all()


@pytest.mark.parametrize("upper", [None, 0.9, 1.1])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_search_with_shared_costs_finds_what_brute_force_finds(seed, upper):
    net = network(seed)
    best = cheapest(net)
    bar = None if upper is None else best * upper
    found = SharingSearch(net, start(net), time_limit_s=30, upper=bar).run()
    assert found.cost == pytest.approx(net.cost(found.assignment))
    assert found.lower_bound <= best * (1 + 1e-6)
    if upper is None or upper > 1:
        assert found.cost == pytest.approx(best, rel=1e-6)
        assert found.lower_bound == pytest.approx(best, rel=1e-6)
    else:
        assert found.lower_bound >= bar * (1 - 1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_charged_costs_bound_shared_ones(seed):
    net = network(seed)
    below = net.charged(net.shared, divided=True)
    above = net.charged(net.shared, divided=False)
    for assignment in assignments(net):
        cost = net.cost(assignment)
        assert below.cost(assignment) <= cost * (1 + 1e-12)
        assert above.cost(assignment) >= cost * (1 - 1e-12)
    bound = SharingSearch(net, start(net), time_limit_s=30).approach()
    assert bound.lower_bound <= cheapest(net) * (1 + 1e-6) <= bound.cost * (1 + 1e-5)
