"""A problem as flat arrays: all values of all variables one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.solver.problem import Array, Indices, Problem


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each variable's values are, and what each value uses.

    Attributes:
        offsets: Of the first value of each variable, and the end, [variables + 1].
        owners: Variable of each value, [values].
        unary: Cost of each value, [values].
        limits: Of the usage at each time, [times].
        usage_values: Which value an entry of usage belongs to, [entries].
        usage_starts: First time of an entry, [entries].
        usage_ends: One past its last time, [entries].
        usage_amounts: Of an entry, [entries].
    """

    offsets: Indices
    owners: Indices
    unary: Array
    limits: Array
    usage_values: Indices
    usage_starts: Indices
    usage_ends: Indices
    usage_amounts: Array

    @property
    def num_values(self) -> int:
        return len(self.unary)

    @property
    def num_variables(self) -> int:
        return len(self.offsets) - 1

    def profile(self, weights: Array) -> Array:
        """Usage at each time if each value is chosen to some share, [times]."""
        amounts = self.usage_amounts * weights[self.usage_values]
        size = len(self.limits) + 1
        changes = np.bincount(self.usage_starts, amounts, size)
        changes -= np.bincount(self.usage_ends, amounts, size)
        return np.cumsum(changes[:-1])

    def profile_of(self, assignment: Sequence[int]) -> Array:
        """Usage of an assignment at each time, [times]."""
        weights = np.zeros(self.num_values)
        weights[self.offsets[:-1] + np.asarray(assignment, np.intp)] = 1.0
        return self.profile(weights)

    def prices(self, multipliers: Array) -> Array:
        """What each value's usage costs, [values].

        Args:
            multipliers: Price of one unit at each time, [times].
        """
        until = np.concatenate([[0.0], np.cumsum(multipliers)])
        paid = until[self.usage_ends] - until[self.usage_starts]
        paid = self.usage_amounts * paid
        return np.bincount(self.usage_values, paid, self.num_values).astype(float)

    def split(self, flat: Array) -> list[Array]:
        """Views of the values of each variable."""
        return np.split(flat, self.offsets[1:-1])


def layout(problem: Problem) -> Layout:
    """Flat arrays of a problem."""
    sizes = np.array([len(costs) for costs in problem.unary], np.intp)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp)
    counts = np.array([len(usage.amounts) for usage in problem.usages], np.intp)
    values = [
        offsets[usage.variable] + np.arange(len(usage.amounts))
        for usage in problem.usages
    ]
    starts = np.array([usage.start for usage in problem.usages], np.intp)
    ends = np.array([usage.end for usage in problem.usages], np.intp)
    return Layout(
        offsets=offsets,
        owners=np.repeat(np.arange(len(sizes)), sizes),
        unary=_joined(list(problem.unary)),
        limits=problem.limits,
        usage_values=_joined(values).astype(np.intp),
        usage_starts=np.repeat(starts, counts),
        usage_ends=np.repeat(ends, counts),
        usage_amounts=_joined([usage.amounts for usage in problem.usages]),
    )


def _joined(arrays: "Sequence[np.ndarray]") -> "np.ndarray":
    return np.concatenate(arrays) if arrays else np.zeros(0)
