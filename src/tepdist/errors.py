"""Every error that a user may see.

A user's mistake raises a `TepdistError` subclass: one line of problem with the
values in it, one of where, one hint. An `assert` is for our own mistakes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

MAX_MESSAGE_CHARS = 240


class TepdistError(Exception):
    """Base of all errors meant for users.

    Attributes:
        problem: What is wrong, with the values in it.
        where: File, line, argument or option it was found at; None if nowhere.
        hint: One thing to try; None if there is none.
    """

    def __init__(
        self, problem: str, *, where: str | None = None, hint: str | None = None
    ) -> None:
        self.problem = problem
        self.where = where
        self.hint = hint
        super().__init__(problem)

    def __str__(self) -> str:
        lines = [self.problem]
        if self.where is not None:
            lines.append(f"  at: {self.where}")
        if self.hint is not None:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        state = {"where": self.where, "hint": self.hint}
        return (type(self), (self.problem,), state)


def shortened(message: str) -> str:
    """One line of at most `MAX_MESSAGE_CHARS` characters."""
    line = " ".join(message.split())
    if len(line) <= MAX_MESSAGE_CHARS:
        return line
    return line[: MAX_MESSAGE_CHARS - 3] + "..."


def listed(names: Sequence[str], most: int) -> str:
    """The first few names, for a line of text.

    >>> listed(["a", "b", "c"], 2), listed(["a"], 2)
    ('a, b, ...', 'a')
    """
    return ", ".join([*names[:most], "..."] if len(names) > most else names)


@contextmanager
def located(where: str) -> Iterator[None]:
    """Errors from inside that do not say where they were found say this.

    >>> with located("plan.json"):
    ...     raise PlanError("the plan is empty")
    Traceback (most recent call last):
        ...
    tepdist.errors.PlanError: the plan is empty
      at: plan.json
    """
    try:
        yield
    except TepdistError as error:
        if error.where is None:
            error.where = where
        raise


class ProgramError(TepdistError):
    """The program cannot be read, or is not one we can plan."""


class RolesError(TepdistError):
    """The stated roles do not match the program."""


class ClusterError(TepdistError):
    """The cluster is unknown, malformed, or not at hand."""


class OptionsError(TepdistError):
    """An option, mesh or constraint is malformed or names something unknown."""


class ShardingError(TepdistError):
    """A sharding does not fit its tensor or mesh."""


class NoPlanFits(TepdistError):
    """No plan keeps within the limits; says which limit binds and by how much."""


class PlanError(TepdistError):
    """A plan file is malformed, of another version, or does not match its program."""


class StateError(TepdistError):
    """State of another shape, dtype or structure than the program was planned for."""


class StateConsumed(StateError):
    """A donated handle was used again."""


class SessionError(TepdistError):
    """A session, program or handle is unknown, expired or somebody else's."""


class ConnectionLost(TepdistError):
    """The server cannot be reached."""


class StepFailed(TepdistError):
    """A step that was already under way failed; says which one."""


class ServerFailed(TepdistError):
    """The server met a fault of its own; it goes on serving."""
