"""Changes of one variable at a time, judged on the whole timeline of memory."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tepdist.search.descent import Descent
from tepdist.search.memory import Memory
from tepdist.search.network import Network
from tepdist.search.shared import Array

_MOST_ROUNDS = 12  # of looking for what costs least for each byte
_MOST_FAILURES = 40  # changes of one round that save nothing


class Within:
    """Brings assignments of one network within its memory limit, and improves them."""

    def __init__(self, network: Network, memory: Memory, limit: float) -> None:
        self._memory = memory
        self._limit = limit
        self._descent = Descent(network)
        self._usages: dict[int, tuple[Array, ...]] = {}

    def repaired(
        self, assignment: Sequence[int], out_of_time: Callable[[], bool]
    ) -> tuple[int, ...]:
        """Changed until it fits, or no change makes it overflow less.

        Changes that cost least for each byte that they save come first; those stay
        after which less overflows over all times.
        """
        values = list(assignment)
        excess, profile = self._excess(values)
        for _ in range(_MOST_ROUNDS):
            if excess == 0 or out_of_time():
                break
            before, moved, failed = excess, set[int](), 0
            for variable, value in self._savings(values, profile):
                if variable in moved:
                    continue
                old, values[variable] = values[variable], value
                found, changed = self._excess(values)
                if found < excess * (1 - 1e-9):
                    excess, profile = found, changed
                    moved.add(variable)
                else:
                    values[variable] = old
                    failed += 1
                if excess == 0 or failed == _MOST_FAILURES:
                    break
            if excess == before:
                break
        return tuple(values)

    def filled(
        self, assignment: Sequence[int], out_of_time: Callable[[], bool]
    ) -> tuple[int, ...]:
        """Changed while that is cheaper and no more overflows than before."""
        values = list(assignment)
        most, _ = self._excess(values)
        changed = True
        while changed and not out_of_time():
            changed = False
            for variable in range(len(values)):
                for value in self._descent.cheaper(values, variable):
                    old, values[variable] = values[variable], value
                    if self._excess(values)[0] <= most:
                        changed = True
                        break
                    values[variable] = old
        return tuple(values)

    def _excess(self, values: Sequence[int]) -> tuple[float, Array]:
        """What overflows, summed over all times [B], and what is in use at each."""
        profile = self._memory.profile(values)
        return float(np.maximum(profile - self._limit, 0.0).sum()), profile

    def _savings(self, values: list[int], profile: Array) -> Iterator[tuple[int, int]]:
        """Changes that may save memory at the worst time, cheapest for a byte first."""
        worst = int(profile.argmax())
        over = float(profile[worst]) - self._limit
        held: dict[int, float] = {}
        for term in self._memory.terms(values, worst):
            for variable in term.variables:
                # A copy may go with any change of those that make it.
                saved = term.bytes_ if term.is_copy else 0.0
                held[variable] = held.get(variable, 0.0) + saved
        if worst not in self._usages:
            usages = self._memory.usages([worst])
            self._usages[worst] = tuple(usage[:, 0] for usage in usages)
        found = []
        for variable, copied in held.items():
            usage = self._usages[worst][variable]
            saved = usage[values[variable]] - usage + copied
            costs = self._descent.conditional(values, variable)
            dearer = np.maximum(costs - costs[values[variable]], 0.0)
            for value in np.flatnonzero(saved > 0).tolist():
                if value != values[variable]:
                    rate = float(dearer[value]) / min(float(saved[value]), over)
                    found.append((rate, variable, value))
        for _, variable, value in sorted(found):
            yield variable, value
