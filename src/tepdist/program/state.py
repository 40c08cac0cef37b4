"""State: which results of a program replace which of its arguments."""

from tepdist.program.graph import Program
from tepdist.program.roles import Roles


def argument_values(program: Program, roles: Roles) -> dict[str, int]:
    """The value of each argument by its name."""
    return {
        role.name: value
        for role, value in zip(roles.arguments, program.arguments, strict=True)
    }


def next_values(program: Program, roles: Roles) -> dict[int, int]:
    """Each state argument's value to the result that replaces it."""
    value_of = argument_values(program, roles)
    return {
        value_of[role.replaces]: value
        for role, value in zip(roles.results, program.results, strict=True)
        if role.replaces is not None
    }


def lies_as(program: Program, roles: Roles) -> tuple[int, ...]:
    """For each result the value whose sharding it takes.

    The argument that it replaces, else itself.
    """
    value_of = argument_values(program, roles)
    return tuple(
        value if role.replaces is None else value_of[role.replaces]
        for role, value in zip(roles.results, program.results, strict=True)
    )


def lent_buffers(program: Program, roles: Roles) -> dict[int, int]:
    """Next values of donated arguments to the argument: they take its buffer."""
    donated = {
        value
        for role, value in zip(roles.arguments, program.arguments, strict=True)
        if role.donated
    }
    return {
        value: argument
        for argument, value in next_values(program, roles).items()
        if argument in donated and program.values[value].producer is not None
    }
