"""Message passing on a network: a bound that rises, and good assignments.

Shared costs are divided among all who might take a column, so that no assignment
costs more than in the network itself, and limits are left aside.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tepdist.search.descent import Descent
from tepdist.search.network import Network
from tepdist.search.shared import Array
from tepdist.solver.layout import layout
from tepdist.solver.messages import Messages
from tepdist.solver.problem import Problem

_CONVERGED = 1e-5  # relative gain of a sweep that ends the sweeps


def _never() -> bool:
    return False


class Relaxation:
    """Messages of one network; they go on from where they were.

    Attributes:
        bound: No assignment costs less.
    """

    def __init__(self, network: Network) -> None:
        nothing = tuple(np.zeros_like(costs) for costs in network.unary)
        self._divided = replace(network, unary=nothing, binary={}).charged(
            network.shared, divided=True
        )
        ends = sorted({*network.binary, *self._divided.binary})
        around = np.bincount(
            np.array(ends, np.intp).ravel(), minlength=network.num_variables
        )
        # Messages converge faster from the variables with most edges outwards.
        self._order = np.argsort(-around, kind="stable").tolist()
        position = {variable: at for at, variable in enumerate(self._order)}
        self._edges = {pair: (position[pair[0]], position[pair[1]]) for pair in ends}
        edges = dict(
            zip(
                ((min(places), max(places)) for places in self._edges.values()),
                self._tables(network),
                strict=True,
            )
        )
        flat = layout(Problem(self._ordered(network), edges, (), np.zeros(0)))
        self._unary = flat.unary
        self._messages = Messages(flat, edges)
        self._descent = Descent(network)
        self.bound = 0.0

    def _ordered(self, network: Network) -> tuple[Array, ...]:
        """Unary costs with what is divided, in the order of the messages."""
        unary, divided = network.unary, self._divided.unary
        return tuple(unary[at] + divided[at] for at in self._order)

    def _tables(self, network: Network) -> list[Array]:
        """Binary costs with what is divided, from the earlier variable on."""
        found = []
        for (i, j), (first, second) in self._edges.items():
            known = (network.binary.get((i, j)), self._divided.binary.get((i, j)))
            tables = [costs for costs in known if costs is not None]
            if not tables:
                tables = [np.zeros((len(network.unary[i]), len(network.unary[j])))]
            table = tables[0] if len(tables) == 1 else tables[0] + tables[1]
            found.append(table if first < second else table.T)
        return found

    def price(self, network: Network) -> None:
        """Goes on with other costs, but the same shared ones; the bound starts anew.

        Costs are at least 0. Those between variables that had none in common before
        are left out of messages and bound.
        """
        self._unary = np.concatenate(self._ordered(network))
        self._messages.price(self._tables(network))
        self._descent = Descent(network)
        self.bound = 0.0

    def sweep(
        self,
        count: int,
        *,
        enough: float = np.inf,
        out_of_time: Callable[[], bool] = _never,
    ) -> None:
        """Raises the bound.

        Args:
            count: Sweeps at most; fewer once they no longer pay.
            enough: A bound that is high enough.
            out_of_time: Asked between sweeps.
        """
        for _ in range(count):
            if self.bound >= enough or out_of_time():
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

    def marginals(self) -> list[Array]:
        """About what the best assignment costs with each value of each variable."""
        sizes = [len(costs) for costs in self._divided.unary]
        ends = np.cumsum([sizes[variable] for variable in self._order])[:-1]
        found = [np.zeros(0)] * len(sizes)
        parts = np.split(self._messages.marginals(self._unary), ends)
        for variable, costs in zip(self._order, parts, strict=True):
            found[variable] = costs
        return found
