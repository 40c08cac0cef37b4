"""Large-neighbourhood search: few values a variable, solved as an integer program.

Around the best assignment so far some other values are let in, and the best choice
among them is found by HiGHS within all limits. Three kinds of neighbourhood share the
time, each growing while it is solved fast and shrinking when it is not:

- scattered: a few values of every variable, drawn by their marginal cost;
- recent: what recent assignments had, then a few drawn ones too;
- region: all values in a connected part, what recent assignments had around it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

from tepdist.solver.ascent import Ascent
from tepdist.solver.integer import Restriction
from tepdist.solver.problem import Array, Indices

_MOST_COLUMNS = 150_000
_MOST_ROUNDS = 6  # of adding times that overflowed
_GAP = 1e-6
_PROVEN = 2e-6
_RING = 4  # variables in and around a region for one inside
_REACH = 4  # neighbours of one variable that a region takes in


@dataclass(slots=True)
class _Kind:
    """A kind of neighbourhood, its size now, and the time it has had [s]."""

    draw: Callable[[float], list[Indices]]
    size: float
    spent_s: float = 0.0


class Neighbourhoods:
    """Improves the candidates' best assignment.

    Attributes:
        bound: No feasible assignment costs less.
    """

    def __init__(self, ascent: Ascent, *, marginals: Array, seed: int) -> None:
        """Prepares a search.

        Args:
            ascent: Gives the problem, the candidates to improve and the bound.
            marginals: About what the problem costs at least with each value, [values].
            seed: Of what is drawn.
        """
        problem, flat = ascent.problem, ascent.layout
        self._problem, self._layout = problem, flat
        self._candidates = ascent.candidates
        self.bound = ascent.bound
        self._overrun_s = 0.0  # the most by which a try has exceeded its time
        self._random = np.random.default_rng(seed)
        self._ranking = [
            costs.argsort(kind="stable") for costs in flat.split(marginals)
        ]
        self._around: list[list[int]] = [[] for _ in problem.unary]
        for i, j in problem.edges:
            self._around[i].append(j)
            self._around[j].append(i)

    def run(self, left_s: Callable[[], float]) -> None:
        """Searches until time is up or the best is proven best."""
        quota_s = min(max(left_s() / 20, 0.5), 12.0)
        kinds = (
            _Kind(self._recent, 1.0),
            _Kind(self._scattered, 3.0),
            _Kind(self._region, 30.0),
        )
        self._try_within(kinds[0].draw(1.0), min(quota_s, left_s()))
        self._try_within(self._ranking, left_s() / 3)
        while left_s() > self._overrun_s and not self._is_proven():
            kind = min(kinds, key=lambda kind: kind.spent_s)
            limit_s = min(quota_s, left_s() - self._overrun_s)
            is_complete, took_s = self._try_within(kind.draw(kind.size), limit_s)
            kind.spent_s += took_s
            if not is_complete:
                kind.size *= 0.6
            elif took_s < 0.6 * quota_s:
                kind.size = min(1.3 * kind.size, self._layout.num_values)

    def _try_within(
        self, values: Sequence[Indices], limit_s: float
    ) -> tuple[bool, float]:
        """What `_try` returns, and the time it took [s]."""
        began = monotonic()
        is_complete = self._try(values, limit_s)
        took_s = monotonic() - began
        self._overrun_s = max(self._overrun_s, took_s - limit_s)
        return is_complete and took_s <= limit_s, took_s

    def _is_proven(self) -> bool:
        cost = self._candidates.feasible_cost
        if not np.isfinite(cost):
            return self.bound == np.inf  # proven that nothing is feasible
        return bool(self.bound >= cost - _PROVEN * abs(cost))

    def _try(self, values: Sequence[Indices], time_limit_s: float) -> bool:
        """Looks for a better assignment among the values of the best and some more.

        Returns:
            Whether there is none that is better than the best is now.
        """
        until = monotonic() + time_limit_s
        candidates = self._candidates
        allowed = self._with_best(values)
        restriction = Restriction(self._problem, self._layout, allowed)
        if time_limit_s <= 0 or restriction.num_columns > _MOST_COLUMNS:
            return False
        is_complete, is_all = False, self._is_all(allowed)
        for _ in range(_MOST_ROUNDS):
            is_known = np.isfinite(candidates.feasible_cost)
            answer = restriction.solve(
                list(candidates.times),
                time_limit_s=until - monotonic(),
                start=candidates.best if is_known else None,
                gap=_GAP,
                is_exact=is_all,
            )
            if is_all:
                self.bound = max(self.bound, answer.lower_bound)
            is_complete = answer.is_complete
            if answer.assignment is None:
                break
            _, excess = candidates.offer(answer.assignment)
            if excess.max(initial=0.0) <= 0:
                break
            is_complete = False
            if monotonic() >= until:
                break
        return is_complete

    def _is_all(self, allowed: Sequence[Indices]) -> bool:
        return sum(map(len, allowed)) == self._layout.num_values

    def _with_best(self, allowed: Sequence[Indices]) -> list[Indices]:
        best = self._candidates.best
        assert best is not None
        return [
            np.unique(np.append(values, value)).astype(np.intp)
            for values, value in zip(allowed, best, strict=True)
        ]

    def _drawn(self, mean: float) -> list[Indices]:
        """Values of each variable, cheap ones more often."""
        spread = self._random.uniform(2.0, 20.0)
        counts = self._random.poisson(mean, len(self._ranking))
        drawn = []
        for order, count in zip(self._ranking, counts, strict=True):
            if count >= len(order):
                drawn.append(order)
                continue
            # The largest of exponential races: drawing without replacement by weight.
            race = self._random.gumbel(size=len(order)) - np.arange(len(order)) / spread
            drawn.append(order[np.argpartition(-race, count)[:count]])
        return drawn

    def _scattered(self, size: float) -> list[Indices]:
        return self._with_best(self._drawn(size))

    def _recent(self, size: float) -> list[Indices]:
        """Up to size 1 a share of the variables has its recent values."""
        free = self._random.random(len(self._ranking)) < size
        known = self._candidates.values()
        drawn = self._drawn(max(0.0, size - 1.0))
        return self._with_best(
            [
                np.concatenate([known[i], drawn[i]]) if is_free else drawn[i]
                for i, is_free in enumerate(free)
            ]
        )

    def _region(self, size: float) -> list[Indices]:
        """All values inside, recent ones in a ring around, only the best elsewhere."""
        around = self._connected(max(2, int(size * _RING)))
        inside = set(around[: max(2, int(size))])
        known = self._candidates.values()
        allowed = [np.zeros(0, np.intp)] * len(known)
        for variable in around:
            allowed[variable] = (self._ranking if variable in inside else known)[
                variable
            ]
        return self._with_best(allowed)

    def _connected(self, size: int) -> list[int]:
        """Variables around a random one, nearest first."""
        queue = [int(self._random.integers(len(self._around)))]
        seen = set(queue)
        for variable in queue:
            if len(queue) >= size:
                break
            others = [other for other in self._around[variable] if other not in seen]
            self._random.shuffle(others)
            queue += others[:_REACH]
            seen.update(others[:_REACH])
        return queue
