"""The best prices of limits by all assignments so far (bundle method with a box)."""

import numpy as np

from tepdist.solver import highs
from tepdist.solver.problem import Array

_TIME_LIMIT_S = 5.0


def best_prices(
    costs: Array, slopes: Array, near: Array, *, radius: float
) -> tuple[Array, float | None]:
    """Prices at which the cheapest of some assignments costs most.

    Args:
        costs: Of each assignment without prices, [assignments].
        slopes: What a price of 1 on each limit adds to them, [assignments, limits].
        near: Prices to stay near, [limits].
        radius: Most that a price may differ from these.

    Returns:
        Prices of at least 0, and that cost; `near` and None if none were found.
    """
    count = len(near)
    entries = np.hstack([np.ones((len(costs), 1)), -slopes])
    rows, columns = np.nonzero(entries)
    outcome = highs.solve(
        highs.Program(
            costs=np.concatenate([[-1.0], np.zeros(count)]),
            lower=np.concatenate([[-np.inf], np.maximum(0, near - radius)]),
            upper=np.concatenate([[np.inf], near + radius]),
            integral=np.zeros(count + 1, bool),
            row_lower=np.full(len(costs), -np.inf),
            row_upper=costs,
            entries=(rows, columns, entries[rows, columns]),
        ),
        time_limit_s=_TIME_LIMIT_S,
    )
    if outcome.columns is None:
        return near, None
    return np.maximum(0.0, outcome.columns[1:]), float(outcome.columns[0])
