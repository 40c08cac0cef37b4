"""Some values of each variable: the network and the memory of these alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tepdist.search.copies import Copied, Move
from tepdist.search.cuts import CutSearch
from tepdist.search.limited import LimitedSearch, Outcome
from tepdist.search.memory import TimedMemory
from tepdist.search.network import Network
from tepdist.search.shared import Array

_GAIN = 1e-6  # share of the cost that a better answer must save

Values = Sequence[NDArray[np.intp]]


@dataclass(frozen=True, slots=True)
class Part:
    """Memory of assignments of some values of each variable.

    Attributes:
        memory: Of all assignments.
        values: Of each variable, ascending.
        moves: Those of all values to those of these, as far as they are known.
    """

    memory: TimedMemory
    values: Values
    moves: dict[Move, Move] = field(default_factory=dict)

    @property
    def fixed(self) -> float:
        return self.memory.fixed

    def whole(self, assignment: Sequence[int]) -> tuple[int, ...]:
        """The assignment as one of all values."""
        chosen = zip(self.values, assignment, strict=True)
        return tuple(int(values[at]) for values, at in chosen)

    def profile(self, assignment: Sequence[int]) -> Array:
        return self.memory.profile(self.whole(assignment))

    def least_profile(self) -> Array:
        return self.memory.least_profile()

    def usages(self, times: Sequence[int]) -> tuple[Array, ...]:
        pairs = zip(self.memory.usages(times), self.values, strict=True)
        return tuple(usage[values] for usage, values in pairs)

    def copied(self, time: int) -> Iterator[Copied]:
        for copy in self.memory.copied(time):
            before = tuple(map(self._only, copy.before))
            yield Copied(copy.bytes_, before, tuple(map(self._only, copy.after)))

    def _only(self, move: Move) -> Move:
        if move not in self.moves:
            values = self.values
            self.moves[move] = move.only(values[move.source], values[move.target])
        return self.moves[move]


def improve_among(
    values: Values,
    network: Network,
    memory: TimedMemory,
    *,
    search: LimitedSearch,
    left_s: Callable[[], float],
) -> None:
    """Offers a search the best answer among some values, if one is found in time.

    Args:
        values: Of each variable, ascending; those of the best answer among them.
        network: Of the search.
        memory: Of the search.
        search: Has an answer that fits.
        left_s: Time left [s].
    """
    part, best = Part(memory, values), search.outcome
    start = tuple(
        int(np.searchsorted(own, value))
        for own, value in zip(values, best.assignment, strict=True)
    )
    known = Outcome(start, best.cost, best.peak, None)
    cuts = CutSearch(
        network.only(values), part, search.limit, times=search.times, is_exact=False
    )
    found = cuts.run(known, left_s=left_s, upper=best.cost * (1 - _GAIN))
    search.offer(part.whole(found.assignment))
