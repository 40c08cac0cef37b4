"""A network without limits to optimality, by toulbar2."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.solver import child
from tepdist.solver.integers import IntegerNetwork, Integers, Table
from tepdist.solver.problem import Array

_RESOLUTION = 1e11  # integer cost of the start, above the constant

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
    ends: Ends,
    network: Reparametrized,
    *,
    start: Sequence[int],
    time_limit_s: float,
    upper: float = np.inf,
) -> Relaxed:
    """The best assignment of a network without limits.

    Args:
        ends: Variables of each edge.
        network: Costs.
        start: An assignment to improve on.
        time_limit_s: After which the best so far is returned [s].
        upper: A cost that an answer must beat to be of interest; the bound says no
            more than that nothing does.
    """
    above = min(network.cost(ends, start), upper) - network.constant
    if above <= 0:
        return Relaxed(tuple(start), network.constant, is_complete=True)
    if not np.isfinite(above):
        return Relaxed(tuple(start), network.constant, is_complete=False)
    scale, top = _RESOLUTION / above, int(_RESOLUTION) + 1

    # Rounded down: what the solver proves holds for the costs as they are.
    def integers(costs: Array) -> Integers:
        scaled: Integers = np.minimum(np.floor(costs * scale), top).astype(np.int64)
        return scaled.ravel()

    unary = [Table((i,), integers(costs)) for i, costs in enumerate(network.unary)]
    binary = [
        Table(pair, integers(table))
        for pair, table in zip(ends, network.tables, strict=True)
    ]
    domains = tuple(len(costs) for costs in network.unary)
    answer = child.solve(
        IntegerNetwork(domains, (*unary, *binary), top), time_limit_s=time_limit_s
    )
    assignment, bound = tuple(start), answer.lower_bound / scale
    if answer.values is not None:
        assignment = answer.values
    elif answer.is_complete:
        bound = above  # nothing beats the start or the upper bound
    return Relaxed(assignment, network.constant + bound, answer.is_complete)
