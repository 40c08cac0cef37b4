"""toulbar2, in a child process; the only file that knows pytoulbar2.

It holds Python's lock while it solves, keeps its options in globals, takes the signal
handlers, and may run out of memory: none of that must be the caller's. Its linear
constraints are not used: they are wrong (decision 016).
"""

import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import pytoulbar2

from tepdist.solver.integers import READY, Answer, IntegerNetwork

_MOST_MEMORY = 4 * 2**30  # address space of the child [B]
# Its own timers run for longer than the parent waits [s].
_LAST_RESORT_S = 30
_FAR_OFF_S = 10**6


def serve(handle: int) -> None:
    """Solves what comes in until the other end closes; what the child does.

    Args:
        handle: File descriptor of a connection.
    """
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    connection = Connection(handle)
    connection.send(READY)
    while True:
        try:
            network, time_limit_s = connection.recv()
        except EOFError:
            return
        with _ended_with_parent(handle, time_limit_s):
            answer = solve(network)
        connection.send(answer)


@contextmanager
def _ended_with_parent(handle: int, time_limit_s: float) -> Iterator[None]:
    """While it solves it hears no Python: signals end it if the parent goes.

    The other end of the socket closes with the parent, which SIGIO tells where the
    platform has that; else a timer ends it late.
    """
    signal.setitimer(signal.ITIMER_REAL, time_limit_s + _LAST_RESORT_S)
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    fcntl.fcntl(handle, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(handle, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags)
        signal.setitimer(signal.ITIMER_REAL, 0)


def solve(network: IntegerNetwork) -> Answer:
    """The best assignment; SIGVTALRM ends the search with the best so far."""
    try:
        model = _model(network)
    except pytoulbar2.tb2.Contradiction:  # it sees at once that nothing fits
        return Answer(None, network.top, is_complete=True)
    # A limit, if far off, makes it heed the signal.
    found = model.Solve(timeLimit=_FAR_OFF_S)
    is_complete = not pytoulbar2.tb2.option.limited
    if found is None:
        # Of a search that ended without an answer it says less than was proven.
        bound = network.top if is_complete else float(model.GetDDualBound())
        return Answer(None, bound, is_complete)
    values = tuple(int(value) for value in found[0])
    return Answer(values, float(model.GetDDualBound()), is_complete)


def _model(network: IntegerNetwork) -> pytoulbar2.CFN:
    pytoulbar2.tb2.init()  # the last solve has left its options
    # Virtual arc consistency before the search: without it a 300-variable network of
    # a 2-layer GPT on 2x4 took 50 s, with it 1 s (2 cores, 2026-11).
    model = pytoulbar2.CFN(network.top, vac=1)
    model.Option.useRASPS = 1
    for index, size in enumerate(network.domains):
        model.AddVariable(f"v{index}", [f"s{value}" for value in range(size)])
    constants, tables = _split(network)
    if constants:
        model.AddFunction([], constants)
    for variables, costs in tables:
        model.AddFunction(variables, costs)
    return model


def _split(network: IntegerNetwork) -> tuple[int, list[tuple[list[int], list[int]]]]:
    """The sum of the tables of one entry, and all other tables."""
    single = [table for table in network.tables if len(table.costs) == 1]
    return sum(int(table.costs[0]) for table in single), [
        (list(table.variables), table.costs.tolist())
        for table in network.tables
        if len(table.costs) > 1
    ]
