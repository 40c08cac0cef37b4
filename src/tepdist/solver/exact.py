"""A network without limits to optimality, by toulbar2."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.solver.handlers import handlers_kept
from tepdist.solver.problem import Array

_RESOLUTION = 1e11  # integer cost of the start, above the constant
# toulbar2 keeps its options in globals: one solve at a time in a process.
_lock = threading.Lock()

Ends = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Reparametrized:
    """A network whose costs have moved along its edges; the sum is the same.

    Attributes:
        unary: Cost of each value, at least 0, [values of i].
        tables: Of each pair of values, at least 0, [values i, values j] by edge.
        constant: The rest.
    """

    unary: tuple[Array, ...]
    tables: tuple[Array, ...]
    constant: float

    def cost(self, ends: Ends, assignment: Sequence[int]) -> float:
        """Cost of an assignment.

        Args:
            ends: Variables of each edge.
            assignment: Value of each variable.
        """
        total = self.constant
        for costs, value in zip(self.unary, assignment, strict=True):
            total += float(costs[value])
        for (i, j), table in zip(ends, self.tables, strict=True):
            total += float(table[assignment[i], assignment[j]])
        return total


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
    ends: Ends, network: Reparametrized, *, start: Sequence[int], time_limit_s: float
) -> Relaxed:
    """The best assignment of a network without limits.

    Args:
        ends: Variables of each edge.
        network: Costs.
        start: An assignment to improve on.
        time_limit_s: CPU time for the search, in whole seconds [s].
    """
    above = network.cost(ends, start) - network.constant
    if above <= 0:
        return Relaxed(tuple(start), network.constant, is_complete=True)
    if not np.isfinite(above):
        return Relaxed(tuple(start), network.constant, is_complete=False)
    with _lock, handlers_kept():
        found, bound, is_complete = _run(
            ends, network, scale=_RESOLUTION / above, time_limit_s=time_limit_s
        )
    if found is None and is_complete:
        bound = above  # nothing beats the start
    assignment = tuple(start) if found is None else found
    return Relaxed(assignment, network.constant + bound, is_complete)


def _run(
    ends: Ends, network: Reparametrized, *, scale: float, time_limit_s: float
) -> tuple[tuple[int, ...] | None, float, bool]:
    """The best assignment, if any was found; a bound; whether the search ended."""
    import pytoulbar2

    # Rounded down: what the solver proves holds for the costs as they are.
    top = int(_RESOLUTION) + 1

    def integers(costs: Array) -> list[int]:
        scaled = np.minimum(np.floor(costs * scale), top).astype(np.int64)
        found: list[int] = scaled.ravel().tolist()
        return found

    pytoulbar2.tb2.init()  # its options belong to one thread
    model = pytoulbar2.CFN(top, vac=1)
    model.Option.useRASPS = 1
    for index, costs in enumerate(network.unary):
        model.AddVariable(f"v{index}", [f"s{value}" for value in range(len(costs))])
    for index, costs in enumerate(network.unary):
        model.AddFunction([index], integers(costs))
    for (i, j), table in zip(ends, network.tables, strict=True):
        model.AddFunction([i, j], integers(table))
    found = model.Solve(timeLimit=max(1, int(time_limit_s)))
    assignment = None if found is None else tuple(int(value) for value in found[0])
    bound = float(model.GetDDualBound()) / scale
    return assignment, bound, not pytoulbar2.tb2.option.limited
