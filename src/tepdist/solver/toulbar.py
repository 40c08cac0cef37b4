"""toulbar2, in a child process; the only file that knows pytoulbar2.

It holds Python's lock while it solves, keeps its options in globals, takes the signal
handlers, and may run out of memory: none of that must be the caller's.
"""

import resource
from multiprocessing.connection import Connection

import pytoulbar2

from tepdist.solver.integers import Answer, IntegerNetwork

_MOST_MEMORY = 4 * 2**30  # address space of the child [B]
# Its own timer, should nobody be left to stop it [s].
_LAST_RESORT_S = 3600


def serve(handle: int) -> None:
    """Solves what comes in until the other end closes; what the child does.

    Args:
        handle: File descriptor of a connection.
    """
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    connection = Connection(handle)
    while True:
        try:
            network = connection.recv()
        except EOFError:
            return
        connection.send(solve(network))


def solve(network: IntegerNetwork) -> Answer:
    """The best assignment; SIGVTALRM ends the search with the best so far."""
    try:
        model = _model(network)
    except pytoulbar2.tb2.Contradiction:  # it sees at once that nothing fits
        return Answer(None, network.top, is_complete=True)
    found = model.Solve(timeLimit=_LAST_RESORT_S)
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
    for limit in network.limits:
        model.AddGeneralizedLinearConstraint(list(limit.terms), "<=", limit.limit)
    return model


def _split(network: IntegerNetwork) -> tuple[int, list[tuple[list[int], list[int]]]]:
    """The sum of the tables of one entry, and all other tables."""
    single = [table for table in network.tables if len(table.costs) == 1]
    return sum(int(table.costs[0]) for table in single), [
        (list(table.variables), table.costs.tolist())
        for table in network.tables
        if len(table.costs) > 1
    ]
