"""Planning options as users give them in Python.

The words are those of the command line, without dashes; what is left out is searched.
This file needs no JAX: `tepdist plan FILE` starts without it.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias, TypedDict

from tepdist.errors import OptionsError, located
from tepdist.plans.types import Options
from tepdist.sharding import Mesh

UserMesh: TypeAlias = Mesh | str | Sequence[int] | Mapping[str, int]
UserDims: TypeAlias = Sequence[str | Sequence[str] | None]

LEVELS = ("O1", "O2", "O3")
UNITS: Mapping[str, int] = MappingProxyType(
    {
        **{"": 1, "b": 1},
        **{"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
        **{"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40},
    }
)
POSITIVE_EXAMPLES: Mapping[str, str] = MappingProxyType(
    {"time_limit": "60, in seconds", "memory_limit": "40 * 2**30, or a text: '40GiB'"}
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


class PlanOptions(TypedDict, total=False):
    """What may be asked of a search; see `tepdist.plans.types.Options`.

    `mesh` is ``"2x4"``, ``"data=2,model=4"``, ``(2, 4)`` or a mapping of axis name to
    size; `memory_limit` is bytes or ``"40GiB"``; `constraints` maps a name pattern to
    per dim None, a mesh axis or several.
    """

    level: str
    time_limit: float | None
    mesh: UserMesh | None
    num_stages: int | None
    num_micro_batches: int | None
    schedule: str | None
    recompute: str | None
    virtual_stages: int | None
    zero: int | None
    memory_limit: int | str | None
    constraints: Mapping[str, UserDims] | None
    exact: bool


PLAN_WORDS = tuple(PlanOptions.__annotations__)


def read_options(given: Mapping[str, Any]) -> Options:
    """The options that a user gave by keyword.

    >>> read_options({"mesh": "2x4", "memory_limit": "1GiB"}).memory_limit_bytes
    1073741824

    Raises:
        OptionsError: naming an option that is unknown or not readable.
    """
    for name in given:
        if name not in PLAN_WORDS:
            raise unknown_option(name, PLAN_WORDS)
    level = given.get("level", "O2")
    if level not in LEVELS:
        raise OptionsError(
            f"level {level!r} is none of {', '.join(LEVELS)}",
            where="level",
            hint='leave it out for "O2"',
        )
    return Options(
        level=level,
        time_limit_s=_positive(given.get("time_limit"), "time_limit"),
        mesh=_mesh(given.get("mesh")),
        num_stages=_count(given.get("num_stages"), "num_stages"),
        num_micro_batches=_count(given.get("num_micro_batches"), "num_micro_batches"),
        schedule=given.get("schedule"),
        recompute=given.get("recompute"),
        virtual_stages=_count(given.get("virtual_stages"), "virtual_stages"),
        zero=given.get("zero"),
        memory_limit_bytes=_size(given.get("memory_limit")),
        constraints=read_constraints(given.get("constraints") or {}),
        exact=read_flag(given.get("exact", True), "exact"),
    )


def read_mesh(mesh: UserMesh | None) -> Mesh | None:
    """A mesh from its text, its shape or its named sizes.

    >>> str(read_mesh({"data": 2, "model": 4})), str(read_mesh((2, 4)))
    ('data=2,model=4', 'x=2,y=4')

    Raises:
        OptionsError: if it is none of these.
    """
    match mesh:
        case None | Mesh():
            return mesh
        case str():
            return Mesh.parse(mesh)
        case Mapping() if _are_counts(mesh.values()):
            return Mesh(tuple((str(name), int(size)) for name, size in mesh.items()))
        case Sequence() if _are_counts(mesh):
            return Mesh.of_shape(tuple(int(size) for size in mesh))
    raise OptionsError(
        f"mesh {mesh!r} is not readable", hint='write "2x4", "data=2,model=4" or (2, 4)'
    )


def read_constraints(
    constraints: Mapping[str, UserDims],
) -> Mapping[str, tuple[tuple[str, ...], ...]]:
    """Name patterns to the mesh axes of each dim.

    >>> read_constraints({"params/*/w1": (None, "model")})
    {'params/*/w1': ((), ('model',))}

    Raises:
        OptionsError: naming the pattern whose sharding is not readable.
    """
    if not isinstance(constraints, Mapping):
        raise OptionsError(
            f"constraints are a {type(constraints).__name__}, not a mapping",
            where="constraints",
            hint='write {"params/*/w1": (None, "model")}',
        )
    return {pattern: _dims(pattern, dims) for pattern, dims in constraints.items()}


def parse_size(text: str) -> int:
    """A size in bytes.

    >>> parse_size("1.5GiB"), parse_size("2GB"), parse_size("512")
    (1610612736, 2000000000, 512)

    Raises:
        OptionsError: if it is not a positive number and a unit.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise OptionsError(
            f"size {text!r} is not readable", hint="write bytes, or e.g. 40GiB"
        )
    if float(match[1]) <= 0:
        raise OptionsError(
            f"size {text!r} holds nothing", hint="write bytes, or e.g. 40GiB"
        )
    return int(float(match[1]) * unit)


def unknown_option(name: str, known: tuple[str, ...]) -> OptionsError:
    """The error for an option that nobody knows."""
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return OptionsError(
        f"unknown option {name!r}",
        where=name,
        hint=f"{meant}known: {', '.join(known)}",
    )


def _mesh(mesh: UserMesh | None) -> Mesh | None:
    with located("mesh"):
        return read_mesh(mesh)


def _are_counts(sizes: Iterable[object]) -> bool:
    return all(type(size) is int for size in sizes)


def read_flag(flag: object, name: str) -> bool:
    """The flag, if it is one.

    Raises:
        OptionsError: if it is not.
    """
    if not isinstance(flag, bool):
        raise OptionsError(
            f"{name}={flag!r} is neither True nor False",
            where=name,
            hint=f"write {name}=True or {name}=False",
        )
    return flag


def _dims(pattern: str, dims: UserDims) -> tuple[tuple[str, ...], ...]:
    given: object = [dims] if dims is None or isinstance(dims, str) else dims
    parsed: list[tuple[str, ...]] = []
    for axes in given if isinstance(given, Sequence) else [given]:
        match axes:
            case None:
                parsed.append(())
            case str():
                parsed.append((axes,))
            case Sequence() if all(isinstance(axis, str) for axis in axes):
                parsed.append(tuple(axes))
            case _:
                raise OptionsError(
                    f"constraint {pattern!r} is not a tuple of mesh axes: {dims!r}",
                    where="constraints",
                    hint='write per dim None, "axis" or ("axis", "axis")',
                )
    return tuple(parsed)


def _size(limit: float | str | None) -> int | None:
    if isinstance(limit, str):
        with located("memory_limit"):
            return parse_size(limit)
    positive = _positive(limit, "memory_limit")
    return None if positive is None else int(positive)


def _count(number: int | None, name: str) -> int | None:
    if number is not None and (type(number) is not int or number < 1):
        raise OptionsError(
            f"{name}={number!r} is not a positive integer",
            where=name,
            hint="leave it out to have it searched",
        )
    return number


def _positive(number: float | None, name: str) -> float | None:
    if number is None:
        return None
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not 0 < number < math.inf:
        raise OptionsError(
            f"{name}={number!r} is not a positive number",
            where=name,
            hint=f"write a number, such as {name}={POSITIVE_EXAMPLES[name]}",
        )
    return number
