"""The best answer within the memory limit, proven: overflows are cut off one by one.

Solve without memory; where the answer overflows, add what forbids that overflow and
solve again. The first answer that fits is the best one. Two kinds of cut, both true of
every answer that fits: at a time of an overflow, the buffers alone keep to the limit
(linear); and not all of the values that overflow together may be chosen again (a
clause), which takes in the copies of resharded values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.search.limited import Outcome
from tepdist.search.memory import Term, TimedMemory
from tepdist.search.network import Network
from tepdist.search.shared import Array
from tepdist.search.solver import Clause, solve_within

_MAX_ROUNDS = 400


@dataclass(frozen=True, slots=True)
class _Overflow:
    """What is in memory at a time at which it does not fit.

    Attributes:
        terms: What an assignment keeps there.
        usages: Bytes of each value of each variable there, copies left out.
        limit: What would fit [B].
    """

    terms: tuple[Term, ...]
    usages: tuple[Array, ...]
    limit: float


class CutSearch:
    """One mesh's search by cuts."""

    def __init__(self, network: Network, memory: TimedMemory, limit: float) -> None:
        self._network = network
        self._memory = memory
        self._limit = limit
        self._times: list[int] = []
        self._clauses: list[Clause] = []

    def run(
        self, known: Outcome, *, left_s: Callable[[], float], upper: float
    ) -> Outcome:
        """The best answer that fits, or the known one with a better bound.

        Args:
            known: An answer, which may fit or not.
            left_s: Time left [s].
            upper: A cost that an answer must beat to be of interest.
        """
        bound = known.lower_bound
        if self._memory.least_profile().max() > self._limit:
            return known
        for _ in range(_MAX_ROUNDS):
            if left_s() <= 0:
                break
            found = solve_within(
                self._limited(),
                self._clauses,
                reference=known.cost,
                upper=upper,
                time_limit_s=left_s(),
            )
            bound = (
                found.lower_bound if bound is None else max(bound, found.lower_bound)
            )
            if found.assignment is None:
                break
            profile = self._memory.profile(found.assignment)
            if profile.max() <= self._limit:
                cost = self._network.cost(found.assignment)
                return Outcome(found.assignment, cost, float(profile.max()), bound)
            self._cut(found.assignment, profile)
        return Outcome(known.assignment, known.cost, known.peak, bound)

    def _limited(self) -> Network:
        """The network with a limit on the buffers at each time that overflowed."""
        if not self._times:
            return self._network
        count = len(self._times)
        return Network(
            self._network.unary,
            self._network.binary,
            self._network.shared,
            self._memory.usages(self._times),
            np.full(count, self._limit - self._memory.fixed),
            np.zeros(count),
        )

    def _cut(self, assignment: Sequence[int], profile: Array) -> None:
        time = int(profile.argmax())
        if time not in self._times:
            self._times.append(time)
        usages = tuple(usage[:, 0] for usage in self._memory.usages([time]))
        overflow = _Overflow(
            tuple(self._memory.terms(assignment, time)),
            usages,
            self._limit - self._memory.fixed,
        )
        self._clauses.append(_clause(overflow, assignment))


def _clause(overflow: _Overflow, assignment: Sequence[int]) -> Clause:
    """A small set of choices that do not fit together.

    A variable is left out where what it adds is not needed for the overflow. One that
    adds buffers only stands for all its values that add as much.
    """
    used = [
        float(usage[value])
        for usage, value in zip(overflow.usages, assignment, strict=True)
    ]
    least = [float(usage.min()) for usage in overflow.usages]
    copies = [term for term in overflow.terms if term.is_copy]
    spare = sum(used) + sum(term.bytes_ for term in copies) - overflow.limit
    kept = {v for term in overflow.terms for v in term.variables}

    def saved(variable: int) -> float:
        return (
            used[variable]
            - least[variable]
            + sum(term.bytes_ for term in copies if variable in term.variables)
        )

    while True:
        variable = min(kept, key=saved)
        if saved(variable) >= spare:
            break
        spare -= saved(variable)
        kept.discard(variable)
        copies = [term for term in copies if variable not in term.variables]
    moved = {variable for term in copies for variable in term.variables}
    return tuple(
        (
            variable,
            (assignment[variable],)
            if variable in moved
            else tuple(
                np.flatnonzero(overflow.usages[variable] >= used[variable]).tolist()
            ),
        )
        for variable in sorted(kept)
    )
