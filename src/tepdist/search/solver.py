"""The exact solver: a cost function network to optimality.

The only file that knows pytoulbar2. Costs are scaled to integers such that rounding
moves the total by less than 1e-6 of it.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytoulbar2

from tepdist.search.network import Network
from tepdist.solver.handlers import handlers_kept

_RESOLUTION = 1e9  # integer cost of the first known solution
_FORBIDDEN = 1e3  # times that solution's cost: never worth it
_USAGE_RESOLUTION = 1e6  # integer usage of a limit
# toulbar2 keeps its options in globals: one solve at a time in a process.
_lock = threading.Lock()

# Values of some variables, of which not all may be chosen together.
Clause = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Solution:
    """What a solve found.

    Attributes:
        assignment: Value of each variable.
        cost: Of that assignment.
        lower_bound: No assignment costs less; equals `cost` if it is proven optimal.
    """

    assignment: tuple[int, ...]
    cost: float
    lower_bound: float


@dataclass(frozen=True, slots=True)
class Within:
    """What a solve within limits found.

    Attributes:
        assignment: Value of each variable; None if nothing beats the upper bound, or
            nothing was found in time.
        lower_bound: No assignment that keeps to limits and clauses costs less, up to
            the upper bound.
    """

    assignment: tuple[int, ...] | None
    lower_bound: float


def solve(
    network: Network,
    start: Sequence[int],
    *,
    upper: float | None = None,
    time_limit_s: float | None = None,
) -> Solution:
    """Best assignment of a network, its limits ignored.

    Args:
        network: Costs at least 0.
        start: An assignment to improve on; returned if nothing better exists.
        upper: A cost that an answer must beat to be of interest.
        time_limit_s: CPU time after which the best so far is returned [s].
    """
    known = tuple(start)
    best = network.cost(known)
    wanted = best if upper is None else min(best, upper)
    if wanted <= 0:
        return Solution(known, best, min(best, 0.0))
    scale = _RESOLUTION / wanted
    with _lock:
        pytoulbar2.tb2.init()  # its options belong to one thread
        model = _model(network, scale, top=int(_RESOLUTION * 1.01) + 1)
        found, is_complete = _run(model, time_limit_s)
        # Of a search that ended without an answer it says less than was proven.
        bound = wanted if is_complete else float(model.GetDDualBound()) / scale
    assignment = known if found is None else found
    cost = network.cost(assignment)
    if cost > best:
        assignment, cost = known, best
    return Solution(assignment, cost, min(bound, cost))


def solve_within(
    network: Network,
    clauses: Sequence[Clause],
    *,
    reference: float,
    upper: float,
    time_limit_s: float | None = None,
) -> Within:
    """Best assignment that keeps to the network's limits and to some clauses.

    Args:
        network: Costs and usages at least 0.
        clauses: What may not be chosen together.
        reference: Cost of some assignment, the scale of others.
        upper: A cost that an answer must beat; infinite if any is of interest.
        time_limit_s: CPU time that the solver may take [s].
    """
    scale = _RESOLUTION / max(reference, 1e-12)
    top = int(_RESOLUTION * _FORBIDDEN)
    if upper < reference * _FORBIDDEN:
        top = int(upper * scale) + 1
    with _lock:
        pytoulbar2.tb2.init()
        model = _model(network, scale, top=top)
        try:
            for time_index in range(len(network.limits)):
                _limit_usage(model, network, time_index)
            for clause in clauses:
                _forbid(model, clause)
        except pytoulbar2.tb2.Contradiction:  # it sees at once that nothing fits
            return Within(None, upper)
        found, is_complete = _run(model, time_limit_s)
        bound = float(model.GetDDualBound()) / scale
    if not is_complete:
        return Within(found, bound)
    return Within(found, upper if found is None else network.cost(found))


def _limit_usage(model: "pytoulbar2.CFN", network: Network, time_index: int) -> None:
    """Adds the limit on usage at one time; what fits still fits when rounded."""
    limit = float(network.limits[time_index] - network.fixed_usage[time_index])
    unit = max(limit / _USAGE_RESOLUTION, 1.0)
    used = [
        (variable, value, int(usage // unit))
        for variable, table in enumerate(network.usages)
        for value, usage in enumerate(table[:, time_index])
        if usage >= unit
    ]
    model.AddGeneralizedLinearConstraint(used, "<=", int(limit // unit))


def _forbid(model: "pytoulbar2.CFN", clause: Clause) -> None:
    chosen = [(variable, value, 1) for variable, values in clause for value in values]
    model.AddGeneralizedLinearConstraint(chosen, "<=", len(clause) - 1)


def _run(
    model: "pytoulbar2.CFN", time_limit_s: float | None
) -> tuple[tuple[int, ...] | None, bool]:
    """The best assignment, if any was found, and whether the search came to its end."""
    limit = 0 if time_limit_s is None else max(1, round(time_limit_s))
    with handlers_kept():
        found = model.Solve(timeLimit=limit)
    is_complete = not pytoulbar2.tb2.option.limited
    return (None if found is None else tuple(int(v) for v in found[0])), is_complete


def _model(network: Network, scale: float, *, top: int) -> "pytoulbar2.CFN":
    forbidden = int(_RESOLUTION * _FORBIDDEN)
    # Virtual arc consistency before the search: without it a 300-variable network of
    # a 2-layer GPT on 2x4 took 50 s, with it 1 s (2 cores, 2026-11).
    model = pytoulbar2.CFN(top, vac=1)
    model.Option.useRASPS = 1
    for index, costs in enumerate(network.unary):
        model.AddVariable(f"v{index}", [f"s{value}" for value in range(len(costs))])
    for index, costs in enumerate(network.unary):
        if len(costs) == 1:
            model.AddFunction([], round(float(costs[0]) * scale))
        else:
            model.AddFunction([index], _integers(costs, scale, forbidden))
    for (i, j), table in network.binary.items():
        model.AddFunction([i, j], _integers(table.ravel(), scale, forbidden))
    return model


def _integers(costs: "np.ndarray", scale: float, forbidden: int) -> list[int]:
    scaled = np.minimum(np.rint(costs * scale), forbidden)
    integers: list[int] = scaled.astype(np.int64).tolist()
    return integers
