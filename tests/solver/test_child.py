"""The solver's child: ends in time, dies alone, lets the caller's threads go on."""

import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest

from tepdist.solver import child
from tepdist.solver.integers import Answer, AtMost, IntegerNetwork, Table


def random_network(num_variables: int, size: int, share: float) -> IntegerNetwork:
    random = np.random.default_rng(0)
    pairs = [
        pair
        for pair in itertools.combinations(range(num_variables), 2)
        if random.random() < share
    ]
    return IntegerNetwork(
        (size,) * num_variables,
        tuple(
            Table(variables, random.integers(0, 1000, size ** len(variables)))
            for variables in [*((v,) for v in range(num_variables)), *pairs]
        ),
        (),
        top=10**6,
    )


def brute_force(network: IntegerNetwork) -> int | None:
    """Least cost below the top within the limits, if there is any."""
    best = network.top
    for values in itertools.product(*(range(size) for size in network.domains)):
        sums = [
            sum(weight for variable, v, weight in limit.terms if values[variable] == v)
            for limit in network.limits
        ]
        if all(s <= at.limit for s, at in zip(sums, network.limits, strict=True)):
            best = min(best, cost(network, values))
    return best if best < network.top else None


def cost(network: IntegerNetwork, values: tuple[int, ...]) -> int:
    total = 0
    for table in network.tables:
        shape = [network.domains[variable] for variable in table.variables]
        at = tuple(values[variable] for variable in table.variables)
        total += int(table.costs.reshape(shape)[at])
    return total


HARD = random_network(60, 12, 0.2)
EASY = random_network(4, 3, 0.8)


@pytest.mark.parametrize("limit", range(4))
@pytest.mark.parametrize("top", [10**6, 2000, 1])
def test_the_answer_is_that_of_brute_force(limit, top):
    at_most = AtMost(tuple((variable, 0, 1) for variable in range(4)), limit)
    also = AtMost(tuple((variable, 1, 2) for variable in range(4)), limit)
    network = IntegerNetwork(EASY.domains, EASY.tables, (at_most, also), top)
    answer = child.solve(network, time_limit_s=30)
    best = brute_force(network)
    assert answer.is_complete
    if best is None:
        assert answer == Answer(None, top, is_complete=True)
    else:
        assert answer.values is not None
        assert cost(network, answer.values) == best == answer.lower_bound


def test_variables_of_one_value_and_tables_of_one_entry_count():
    network = IntegerNetwork(
        (1, 2),
        (
            Table((0,), np.array([5])),
            Table((1,), np.array([4, 1])),
            Table((0, 1), np.array([0, 2])),
        ),
        (),
        top=100,
    )
    assert child.solve(network, time_limit_s=30) == Answer((0, 1), 8.0, True)


def test_a_hard_network_ends_in_time_with_an_answer_and_a_bound():
    started_s = time.perf_counter()
    answer = child.solve(HARD, time_limit_s=1.5)
    assert time.perf_counter() - started_s < 1.5 + 2
    assert not answer.is_complete
    assert answer.values is not None
    assert 0 < answer.lower_bound < cost(HARD, answer.values)


def test_other_threads_go_on_while_it_solves():
    turns = 0
    is_over = threading.Event()

    def count() -> None:
        nonlocal turns
        while not is_over.is_set():
            turns += 1
            time.sleep(0.01)

    thread = threading.Thread(target=count)
    thread.start()
    child.solve(HARD, time_limit_s=1)
    is_over.set()
    thread.join()
    assert turns > 20


def test_several_threads_solve_at_once():
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(child.solve(EASY, time_limit_s=30))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
    assert len(answers) == 4


def test_a_child_that_dies_has_found_nothing_and_the_next_one_solves():
    def kill_soon() -> None:
        time.sleep(0.5)
        for pid in solvers():
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=kill_soon).start()
    assert child.solve(HARD, time_limit_s=30) == Answer(None, 0.0, False)
    time.sleep(0.2)  # idle ones were killed too
    assert child.solve(EASY, time_limit_s=30).is_complete


def solvers() -> list[int]:
    """Children of this process that solve."""
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as children:
        return [int(pid) for pid in children.read().split()]


def test_an_interrupted_solve_leaves_no_child_at_work():
    def interrupt(signum, frame):
        raise KeyboardInterrupt

    known = set(solvers())
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            child.solve(HARD, time_limit_s=30)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert set(solvers()) <= known
    assert child.solve(EASY, time_limit_s=30).is_complete
