"""Guesses roles where nobody states them: from aliases, else from shapes alone."""

from collections.abc import Mapping

from tepdist.program.aliases import Aliases
from tepdist.program.graph import Program, Value
from tepdist.program.roles import ArgumentRole, ResultRole, Role, Roles

FLOATS = ("f", "bf")
KEY_DTYPES = ("ui32",)
KEY_SHAPES = ((2,), (4,))


def infer_roles(program: Program, aliases: Aliases | None = None) -> Roles:
    """Roles of a program for which no sidecar speaks.

    A result that aliases an argument is that state's next value. A donated argument
    without an alias is the state of the first result of its type that is still free,
    and so is every argument when nothing is donated at all, save that a float scalar
    result is then taken for a loss. Of the other arguments scalars and PRNG keys are
    constants, and the rest is batch along dim 0.
    """
    replaced = _replaced(program, aliases)
    state = set(replaced.values())
    donated = (
        aliases.donors.union(aliases.replaced.values()) if aliases else frozenset()
    )
    values = [program.values[index] for index in program.arguments]
    arguments = tuple(
        _argument(value, is_state=number in state, donated=number in donated)
        for number, value in enumerate(values)
    )
    names = aliases.result_names if aliases else _result_names(program)
    results = tuple(
        ResultRole(
            name,
            replaces=values[replaced[i]].name if i in replaced else None,
            is_loss=i not in replaced and _is_float_scalar(program.values[index]),
        )
        for i, (name, index) in enumerate(zip(names, program.results, strict=True))
    )
    return Roles(arguments, results)


def _replaced(program: Program, aliases: Aliases | None) -> Mapping[int, int]:
    """Result to the state argument that it replaces."""
    if aliases is not None and aliases.says_something:
        stated = {
            result: argument
            for result, argument in aliases.replaced.items()
            if _same_type(program, result, argument)
        }
        candidates = sorted(aliases.donors)
    else:
        stated, candidates = {}, list(range(len(program.arguments)))
    return stated | _matched(program, set(stated), candidates)


def _matched(
    program: Program, taken: set[int], candidates: list[int]
) -> dict[int, int]:
    """Pairs free results with candidate arguments of their type, both in order."""
    matched: dict[int, int] = {}
    free = list(candidates)
    for number, index in enumerate(program.results):
        if number in taken or _is_float_scalar(program.values[index]):
            continue
        for candidate in free:
            if _same_type(program, number, candidate):
                matched[number] = candidate
                free.remove(candidate)
                break
    return matched


def _same_type(program: Program, result: int, argument: int) -> bool:
    new = program.values[program.results[result]]
    old = program.values[program.arguments[argument]]
    return (new.shape, new.dtype) == (old.shape, old.dtype)


def _argument(value: Value, *, is_state: bool, donated: bool) -> ArgumentRole:
    if is_state:
        return ArgumentRole(value.name, Role.STATE, donated=donated)
    is_key = value.dtype in KEY_DTYPES and value.shape in KEY_SHAPES
    if not value.shape or is_key:
        return ArgumentRole(value.name, Role.CONSTANT, donated=donated)
    return ArgumentRole(value.name, Role.BATCH, batch_dim=0, donated=donated)


def _is_float_scalar(value: Value) -> bool:
    return not value.shape and value.dtype.startswith(FLOATS)


def _result_names(program: Program) -> tuple[str, ...]:
    return tuple(f"result{i}" for i in range(len(program.results)))
