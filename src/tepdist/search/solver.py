"""The exact solver: a cost function network to optimality, its limits ignored."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.search.network import Network
from tepdist.search.shared import Array, Shared
from tepdist.solver import exact
from tepdist.solver.descent import Descent
from tepdist.solver.layout import layout
from tepdist.solver.messages import Messages
from tepdist.solver.problem import Problem
from tepdist.solver.reduction import reduce

_SWEEPS = 20
_CONVERGED = 1e-5  # relative gain of a sweep that ends the sweeps
_MAX_ONE_COPY = 3  # readers of which no two pairs can share two columns
# On meshes of three axes such a variable may have 22,000 values: the tables of a
# scanned GPT took 4 GB so (2x2x2, 2026-11).
_MAX_ONE_COPY_VALUES = 1000


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


def solve(
    network: Network,
    start: Sequence[int],
    *,
    time_limit_s: float,
    upper: float | None = None,
) -> Solution:
    """Best assignment of a network, its limits ignored.

    Args:
        network: Costs at least 0.
        start: An assignment to improve on; returned if nothing better exists.
        time_limit_s: After which the best so far is returned [s].
        upper: A cost that an answer must beat to be of interest.
    """
    known = tuple(start)
    best = network.cost(known)
    wanted = best if upper is None else min(best, upper)
    until = time.perf_counter() + time_limit_s

    def left_s() -> float:
        return max(until - time.perf_counter(), 0.0)

    reduction = reduce(stated(network), is_out_of_time=lambda: left_s() <= 0)
    found, bound = _solve_reduced(reduction.problem, wanted, left_s=left_s)
    assignment, cost = known, best
    if found is not None:
        values = reduction.expand(found)[: network.num_variables]
        if network.cost(values) < best:
            assignment, cost = values, network.cost(values)
    return Solution(assignment, cost, min(bound, cost))


def _solve_reduced(
    problem: Problem, wanted: float, *, left_s: Callable[[], float]
) -> tuple[tuple[int, ...] | None, float]:
    """An assignment and a lower bound, by messages and then exactly."""
    if not problem.num_variables:
        return (), problem.constant
    flat = layout(problem)
    messages = Messages(flat, problem.edges)
    bound = -np.inf
    for _ in range(_SWEEPS):
        reached = messages.improve(flat.unary)
        gain, bound = reached - bound, max(bound, reached)
        is_enough = bound + problem.constant >= wanted or left_s() <= 0
        if is_enough or gain <= _CONVERGED * abs(bound):
            break
    descent = Descent(problem)
    rounded = descent.improve(
        messages.round(flat.unary), problem.unary, is_out_of_time=lambda: left_s() <= 0
    )
    bound += problem.constant
    if bound >= wanted or left_s() <= 0:
        return rounded, bound
    found = exact.solve(
        tuple(problem.edges),
        messages.reparametrized(flat.unary),
        start=rounded,
        time_limit_s=left_s(),
        upper=wanted - problem.constant,
    )
    return found.assignment, max(bound, found.lower_bound + problem.constant)


def stated(network: Network) -> Problem:
    """The same as a problem without limits, shared costs stated exactly."""
    unary = list(network.unary)
    edges = dict(network.binary)
    for shared in network.shared:
        for copy in _stated(shared):
            for other, costs in copy.others:
                pair = (other, len(unary))  # a reader may be the payer too
                edges[pair] = edges[pair] + costs if pair in edges else costs
            unary.append(copy.costs)
    return Problem(tuple(unary), edges, (), np.zeros(0))


@dataclass(frozen=True, slots=True)
class _Copy:
    """A variable that stands for a copy.

    Attributes:
        costs: Of each of its values.
        others: Cost of each value of a variable with each of its own, by variable.
    """

    costs: Array
    others: tuple[tuple[int, Array], ...]


def _stated(shared: Shared) -> Iterator[_Copy]:
    """A shared cost as variables: one where that is all and not too large."""
    is_small = np.count_nonzero(shared.table) <= _MAX_ONE_COPY_VALUES
    if is_small and len(shared.readers) <= _MAX_ONE_COPY:
        yield _one_copy(shared)
    else:
        yield from _copies(shared)


def _one_copy(shared: Shared) -> _Copy:
    """A shared cost as a variable: the row, and the column that is paid once.

    Readers of other columns pay for themselves. That is all there is to share for up
    to three readers.
    """
    costs = shared.table
    kept = costs > 0
    kept[:, 0] = True
    rows, columns = np.nonzero(kept)
    payer = shared.payer
    other_row = np.where(payer.options[:, None] == rows, 0.0, np.inf)
    readers = (
        (
            reader.variable,
            np.where(
                reader.options[:, None] == columns,
                0.0,
                costs[rows][:, reader.options].T,
            ),
        )
        for reader in shared.readers
    )
    return _Copy(costs[rows, columns], ((payer.variable, other_row), *readers))


def _copies(shared: Shared) -> Iterator[_Copy]:
    """A variable for each column: paid or not; who takes it needs it paid."""
    payer = shared.payer
    for column in range(1, shared.table.shape[1]):
        paid = shared.table[payer.options, column]
        takers = [(r.variable, r.options == column) for r in shared.readers]
        yield _Copy(
            np.zeros(2),
            (
                (payer.variable, np.stack([np.zeros_like(paid), paid], axis=1)),
                *(
                    (variable, np.stack([np.where(takes, np.inf, 0.0), 0.0 * takes], 1))
                    for variable, takes in takers
                    if takes.any()
                ),
            ),
        )
