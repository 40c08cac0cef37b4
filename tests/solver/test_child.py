"""The solver's child: ends in time, dies alone, lets the caller's threads go on."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tepdist import children
from tepdist.errors import TepdistError
from tepdist.solver import child
from tepdist.solver.integers import Answer, IntegerNetwork, Table


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
        top=10**6,
    )


def brute_force(network: IntegerNetwork) -> int | None:
    """Least cost below the top, if there is any."""
    assignments = itertools.product(*(range(size) for size in network.domains))
    best = min(cost(network, values) for values in assignments)
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


@pytest.mark.parametrize("top", [10**6, 2000, 1])
def test_the_answer_is_that_of_brute_force(top):
    network = IntegerNetwork(EASY.domains, EASY.tables, top)
    answer = child.solve(network, time_limit_s=30)
    best = brute_force(network)
    assert answer.is_complete
    if best is None:
        assert answer == Answer(None, top, is_complete=True)
    else:
        assert answer.values is not None
        assert cost(network, answer.values) == best == answer.lower_bound


@pytest.mark.parametrize("most", [3, 10**10])
def test_random_networks_are_answered_as_by_brute_force(most):
    for seed in range(300):
        random = np.random.default_rng((seed, most))
        sizes = random.integers(1, 5, size=random.integers(2, 8)).tolist()
        total = np.zeros(sizes, np.int64)
        tables = []
        for i, j in itertools.combinations(range(len(sizes)), 2):
            costs = random.integers(0, most, size=(sizes[i], sizes[j]))
            costs *= random.random(costs.shape) < random.random()
            if random.random() < 0.3:  # forbids some pairs
                costs[random.random(costs.shape) < 0.4] = 10**11
            if random.random() < 0.7:
                tables.append(Table((i, j), costs.ravel()))
                shape = [size if v in (i, j) else 1 for v, size in enumerate(sizes)]
                total += costs.reshape(shape)
        best = int(total.min())
        top = int(best * random.uniform(0.8, 1.5)) + 1
        answer = child.solve(
            IntegerNetwork(tuple(sizes), tuple(tables), top), time_limit_s=30
        )
        assert answer.is_complete
        assert min(best, top) - 1 <= answer.lower_bound <= min(best, top)
        if best < top:
            assert answer.values is not None
            assert total[answer.values] == best
        else:
            assert answer.values is None


def test_variables_of_one_value_and_tables_of_one_entry_count():
    network = IntegerNetwork(
        (1, 2),
        (
            Table((0,), np.array([5])),
            Table((1,), np.array([4, 1])),
            Table((0, 1), np.array([0, 2])),
        ),
        top=100,
    )
    assert child.solve(network, time_limit_s=30) == Answer((0, 1), 8.0, True)


def test_a_hard_network_ends_in_time_with_an_answer_and_a_bound():
    started_s = time.monotonic()
    answer = child.solve(HARD, time_limit_s=1.5)
    assert time.monotonic() - started_s < 1.5 + 5
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


def solvers(parent: int | None = None) -> list[int]:
    """Children of a process, this one unless told, that solve."""
    pid = parent or os.getpid()
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(pid) for pid in text.split()]


PARENT = """
from tepdist import children
from tepdist.errors import TepdistError
from tepdist.solver import child
from tepdist.solver.integers import IntegerNetwork, Table
import numpy as np

random = np.random.default_rng(0)
pairs = [(i, j) for i in range(60) for j in range(i) if random.random() < 0.2]
tables = [Table(pair[::-1], random.integers(0, 1000, 144)) for pair in pairs]
child.prepare()
print("started", flush=True)
child.solve(IntegerNetwork((12,) * 60, tuple(tables), 10**6), time_limit_s=60)
"""


def test_a_solver_ends_with_the_process_that_asked():
    parent = subprocess.Popen(
        children.command(PARENT), stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    time.sleep(2)  # it solves by now
    (solver,) = solvers(parent.pid)
    with parent:
        parent.kill()
    deadline = time.monotonic() + 10
    while is_running(solver):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_a_solver_starts_where_no_standard_stream_is_open():
    closing = "import os; [os.close(fd) for fd in (0, 1, 2)]\n"
    solved = closing + PARENT.replace('print("started", flush=True)', "").replace(
        "child.solve(", "answer = child.solve("
    ).replace("time_limit_s=60", "time_limit_s=1")
    code = solved + "import os; os._exit(0 if answer.values else 1)"
    done = subprocess.run(children.command(code), check=False, timeout=60)
    assert done.returncode == 0


def test_import_paths_that_are_no_text_are_left_out(monkeypatch):
    monkeypatch.setattr(sys, "path", [Path("/nowhere"), *sys.path])
    (*_, path) = children.command("pass")
    assert json.loads(path) == sys.path[1:]


def test_a_python_without_executable_is_named(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(TepdistError, match=r"sys\.executable"):
        children.command("pass")


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
