"""What the exact solver solves: a cost function network in integers, as plain data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
READY = "ready"  # what the child says once it can solve


@dataclass(frozen=True, slots=True)
class Table:
    """Costs of what one variable or two choose.

    Attributes:
        variables: One or two.
        costs: At least 0; the last variable's values run fastest, [combinations].
    """

    variables: tuple[int, ...]
    costs: Integers


@dataclass(frozen=True, slots=True)
class IntegerNetwork:
    """Choose a value for each of the variables 0..n-1.

    Attributes:
        domains: Number of values of each variable.
        tables: Whose costs add up.
        top: An answer costs less.
    """

    domains: tuple[int, ...]
    tables: tuple[Table, ...]
    top: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the exact solver says.

    Attributes:
        values: The best assignment found; None if none was.
        lower_bound: No assignment costs less, up to the network's `top`.
        is_complete: Whether the search came to its end: what it found is the best,
            and if it found nothing there is nothing.
    """

    values: tuple[int, ...] | None
    lower_bound: float
    is_complete: bool
