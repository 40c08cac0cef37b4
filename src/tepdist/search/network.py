"""A cost function network with usage over time: what the solver solves.

Choose one value for each variable. The cost is the sum of a unary cost for each
variable and a binary cost for each edge. At each of a few times, the sum of the
variables' usages must not exceed the limit. Plain arrays; no sharding in here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Network:
    """Variables 0..n-1.

    Attributes:
        unary: Cost of each value of each variable, [num values of i].
        binary: For pairs i < j the cost of each pair of values, [values i, values j].
        usages: Usage of each value at each time, [values of i, num times].
        limits: Limit at each time, [num times].
        fixed_usage: Usage that no variable decides, [num times].
    """

    unary: tuple[Array, ...]
    binary: Mapping[tuple[int, int], Array]
    usages: tuple[Array, ...]
    limits: Array
    fixed_usage: Array

    @property
    def num_variables(self) -> int:
        return len(self.unary)

    def cost(self, assignment: tuple[int, ...]) -> float:
        """Cost of an assignment."""
        total = sum(
            float(costs[value])
            for costs, value in zip(self.unary, assignment, strict=True)
        )
        total += sum(
            float(costs[assignment[i], assignment[j]])
            for (i, j), costs in self.binary.items()
        )
        return total

    def usage(self, assignment: tuple[int, ...]) -> Array:
        """Usage at each time, [num times]."""
        total = self.fixed_usage.copy()
        for usage, value in zip(self.usages, assignment, strict=True):
            total += usage[value]
        return total

    def fits(self, assignment: tuple[int, ...]) -> bool:
        return bool(np.all(self.usage(assignment) <= self.limits))

    def priced(self, multipliers: Array) -> "Network":
        """The same network with usage priced into the unary costs, and no limits.

        Args:
            multipliers: Price of one unit of usage at each time, [num times].
        """
        unary = [
            costs + usage @ multipliers
            for costs, usage in zip(self.unary, self.usages, strict=True)
        ]
        return unlimited(unary, self.binary)


def unlimited(
    unary: Sequence[Array], binary: Mapping[tuple[int, int], Array]
) -> Network:
    """A network without usage."""
    none = np.zeros(0)
    usages = tuple(np.zeros((len(costs), 0)) for costs in unary)
    return Network(tuple(unary), binary, usages, none, none)
