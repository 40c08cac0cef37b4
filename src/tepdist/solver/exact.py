"""A network without limits to optimality, by toulbar2."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.solver.handlers import handlers_kept
from tepdist.solver.problem import Array, Problem

_RESOLUTION = 1e9  # integer cost of the start, above the bound known
# toulbar2 keeps its options in globals: one solve at a time in a process.
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Reparametrized:
    """A network whose costs have moved along its edges; the sum is the same.

    Attributes:
        unary: Cost of each value, at least 0, [values of i].
        edges: Of each pair of values, at least 0, in the problem's order of edges.
        constant: The rest.
    """

    unary: tuple[Array, ...]
    edges: tuple[Array, ...]
    constant: float


@dataclass(frozen=True, slots=True)
class Relaxed:
    """The best assignment found, and a bound.

    Attributes:
        assignment: The start if nothing better was found.
        lower_bound: No assignment costs less.
        is_complete: Whether the search came to its end.
    """

    assignment: tuple[int, ...]
    lower_bound: float
    is_complete: bool


def solve(
    problem: Problem,
    network: Reparametrized,
    *,
    start: Sequence[int],
    time_limit_s: float,
) -> Relaxed:
    """The best assignment of a network without limits.

    Args:
        problem: Gives the edges.
        network: Gives the costs.
        start: An assignment to improve on, of finite cost.
        time_limit_s: CPU time for the search, in whole seconds [s].
    """
    import pytoulbar2

    ends = list(problem.edges)
    above = sum(
        float(costs[v]) for costs, v in zip(network.unary, start, strict=True)
    ) + sum(
        float(table[start[i], start[j]])
        for (i, j), table in zip(ends, network.edges, strict=True)
    )
    if above <= 0:
        return Relaxed(tuple(start), network.constant, is_complete=True)
    scale = _RESOLUTION / above
    # Rounded down: what the solver proves holds for the costs as they are.
    top = int(_RESOLUTION) + 1

    def integers(costs: Array) -> list[int]:
        scaled = np.minimum(np.floor(costs * scale), top).astype(np.int64)
        found: list[int] = scaled.ravel().tolist()
        return found

    with _lock, handlers_kept():
        pytoulbar2.tb2.init()  # its options belong to one thread
        model = pytoulbar2.CFN(top, vac=1)
        model.Option.useRASPS = 1
        for index, costs in enumerate(network.unary):
            model.AddVariable(f"v{index}", [f"s{value}" for value in range(len(costs))])
        for index, costs in enumerate(network.unary):
            model.AddFunction([index], integers(costs))
        for (i, j), table in zip(ends, network.edges, strict=True):
            model.AddFunction([i, j], integers(table))
        found = model.Solve(timeLimit=max(1, int(time_limit_s)))
        is_complete = not pytoulbar2.tb2.option.limited
        bound = (
            above if is_complete and found is None else model.GetDDualBound() / scale
        )
    assignment = tuple(start) if found is None else tuple(int(v) for v in found[0])
    return Relaxed(assignment, network.constant + float(bound), is_complete)
