"""Roles: which arguments are state, which the batch, and what people call them.

They travel as one message, and beside an exported file as ``FILE.roles.json``.
"""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What an argument is for."""

    STATE = "state"
    BATCH = "batch"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class ArgumentRole:
    """One argument of the program.

    Attributes:
        name: Unique among arguments, e.g. ``params/h/3/mlp/w``.
        role: State persists from step to step; batch changes; constant is given.
        batch_dim: For a batch argument the dim that carries the batch; None if none.
        donated: Whether its buffer may be reused for a result.
    """

    name: str
    role: Role
    batch_dim: int | None = None
    donated: bool = False


@dataclass(frozen=True, slots=True)
class ResultRole:
    """One result of the program.

    Attributes:
        name: Unique among results.
        replaces: Name of the state argument whose next value it is; None if none.
        is_loss: Whether it is the loss.
    """

    name: str
    replaces: str | None = None
    is_loss: bool = False


@dataclass(frozen=True, slots=True)
class Roles:
    """Roles of all arguments and results, in the program's order."""

    arguments: tuple[ArgumentRole, ...]
    results: tuple[ResultRole, ...]
