"""The best answer within the memory limit, proven: overflows are stated one by one.

Solve without memory; where the answer overflows, state all that is in use at that time,
copies included, and solve again. The first answer that fits is the best one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tepdist.search.copies import Copied
from tepdist.search.limited import Outcome
from tepdist.search.linear import Clause, Limited, solve_within
from tepdist.search.memory import TimedMemory
from tepdist.search.network import Network
from tepdist.search.shared import Array
from tepdist.solver.candidates import peaks

_MAX_ROUNDS = 400
_MOST_TIMES = 8  # that one answer adds


class CutSearch:
    """One mesh's search by cuts.

    Attributes:
        times: Whose overflows are stated.
    """

    def __init__(
        self,
        network: Network,
        memory: TimedMemory,
        limit: float,
        *,
        times: Sequence[int] = (),
        is_exact: bool = True,
    ) -> None:
        """Prepares a search.

        Args:
            network: Costs, no limits.
            memory: Of its assignments.
            limit: Of the memory at any time [B].
            times: At which answers are known to overflow.
            is_exact: Whether bounds must be right; if not it is quicker.
        """
        self._network = network
        self._memory = memory
        self._limit = limit
        self._is_exact = is_exact
        self.times = list(times)
        self._copied: dict[int, list[Copied]] = {}
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
                start=known.assignment if known.peak <= self._limit else None,
                reference=known.cost,
                upper=upper,
                time_limit_s=left_s(),
                is_exact=self._is_exact,
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

    def _limited(self) -> Limited:
        """The network with a limit at each time that overflowed."""
        if not self.times:
            return Limited(self._network, ())
        for time in self.times:
            if time not in self._copied:
                self._copied[time] = list(self._memory.copied(time))
        count = len(self.times)
        network = replace(
            self._network,
            usages=self._memory.usages(self.times),
            limits=np.full(count, self._limit - self._memory.fixed),
            fixed_usage=np.zeros(count),
        )
        copied = [self._copied[time] for time in self.times]
        return Limited(network, copied, self._clauses)

    def _cut(self, assignment: Sequence[int], profile: Array) -> None:
        over = sorted(peaks(profile - self._limit), key=lambda time: -profile[time])
        found = [time for time in over if time not in self.times]
        self.times += found[:_MOST_TIMES]
        if not found:
            # By less than the tolerance of the solver: this one and no other.
            self._clauses.append(tuple(enumerate(assignment)))
