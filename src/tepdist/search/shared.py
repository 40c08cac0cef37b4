"""Costs that several variables share: what they need alike is paid once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """What the values of a variable mean to a shared cost.

    Attributes:
        variable: Whose values.
        options: Row or column that each value takes, [num values].
    """

    variable: int
    options: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Shared:
    """A cost paid once for each distinct column that its readers take.

    Attributes:
        payer: Takes the row.
        readers: Each takes a column.
        table: Cost of each column in each row; column 0 is free, [rows, columns].
    """

    payer: Choice
    readers: tuple[Choice, ...]
    table: Array

    def cost(self, assignment: Sequence[int]) -> float:
        """What an assignment pays."""
        row = self.payer.options[assignment[self.payer.variable]]
        columns = {r.options[assignment[r.variable]] for r in self.readers}
        return float(self.table[row, list(columns)].sum())

    def conditional(self, assignment: Sequence[int], variable: int) -> Array:
        """What each value of one variable pays, all others as they are, [values]."""
        mine = [r for r in self.readers if r.variable == variable]
        taken = np.zeros(self.table.shape[1], np.bool_)
        for reader in self.readers:
            if reader.variable != variable:
                taken[reader.options[assignment[reader.variable]]] = True
        payer = self.payer
        rows: NDArray[np.intp] | int = payer.options
        if payer.variable != variable:
            rows = int(payer.options[assignment[payer.variable]])
        paid = np.asarray(self.table[rows][..., taken].sum(axis=-1))
        earlier: list[NDArray[np.intp]] = []
        for reader in mine:
            columns = reader.options
            again = taken[columns]
            for other in earlier:
                again = again | (other == columns)
            paid = paid + np.where(again, 0.0, self.table[rows, columns])
            earlier.append(columns)
        return paid

    @property
    def divided(self) -> Array:
        """Cost of each column in each row for each of those that can take it."""
        takers = np.zeros((len(self.readers), self.table.shape[1]), np.bool_)
        for row, reader in zip(takers, self.readers, strict=True):
            row[reader.options] = True
        parts: Array = self.table / np.maximum(takers.sum(axis=0), 1)
        return parts

    def divided_cost(self, assignment: Sequence[int]) -> float:
        """What an assignment pays if each reader pays its part: no more than `cost`."""
        row = self.payer.options[assignment[self.payer.variable]]
        columns = [r.options[assignment[r.variable]] for r in self.readers]
        return float(self.divided[row, columns].sum())
