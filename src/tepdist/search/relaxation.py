"""Message passing on a network: a bound that rises, and good assignments.

Shared costs are divided among all who might take a column, so that no assignment
costs more than in the network itself, and limits are left aside.
"""

from collections.abc import Sequence

import numpy as np

from tepdist.search.descent import Descent
from tepdist.search.network import Network
from tepdist.solver.layout import layout
from tepdist.solver.messages import Messages
from tepdist.solver.problem import Problem

_CONVERGED = 1e-5  # relative gain of a sweep that ends the sweeps


class Relaxation:
    """Messages of one network; they go on from where they were.

    Attributes:
        bound: No assignment costs less.
    """

    def __init__(self, network: Network) -> None:
        divided = network.charged(network.shared, divided=True)
        around = np.zeros(network.num_variables, np.intp)
        for i, j in divided.binary:
            around[[i, j]] += 1
        # Messages converge faster from the variables with most edges outwards.
        self._order = np.argsort(-around, kind="stable").tolist()
        position = {variable: at for at, variable in enumerate(self._order)}
        edges = {}
        for (i, j), table in divided.binary.items():
            first, second = position[i], position[j]
            if first < second:
                edges[first, second] = table
            else:
                edges[second, first] = np.ascontiguousarray(table.T)
        unary = tuple(divided.unary[variable] for variable in self._order)
        flat = layout(Problem(unary, edges, (), np.zeros(0)))
        self._unary = flat.unary
        self._messages = Messages(flat, edges)
        self._descent = Descent(network)
        self.bound = 0.0

    def sweep(self, count: int, *, enough: float = np.inf) -> None:
        """Raises the bound.

        Args:
            count: Sweeps at most; fewer once they no longer pay.
            enough: A bound that is high enough.
        """
        for _ in range(count):
            if self.bound >= enough:
                return
            bound = self._messages.improve(self._unary)
            gain, self.bound = bound - self.bound, max(bound, self.bound)
            if gain <= _CONVERGED * self.bound:
                return

    def rounded(self) -> tuple[int, ...]:
        """An assignment by the messages, then each variable the best for the others."""
        chosen: Sequence[int] = self._messages.round(self._unary)
        values = [0] * len(chosen)
        for variable, value in zip(self._order, chosen, strict=True):
            values[variable] = value
        return self._descent.improve(values)
