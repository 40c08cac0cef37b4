"""Roles as JSON: the sidecar ``FILE.roles.json`` beside an exported program.

One object with ``arguments`` (name, role, batch_dim, donated) and ``results`` (name,
replaces, is_loss), each in the program's order.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tepdist.errors import RolesError
from tepdist.program.graph import Program
from tepdist.program.roles import ArgumentRole, ResultRole, Role, Roles

ARGUMENT_KEYS = frozenset({"name", "role", "batch_dim", "donated"})
RESULT_KEYS = frozenset({"name", "replaces", "is_loss"})
_FORM = 'write {"arguments": [...], "results": [...]}'


def sidecar_path(path: Path) -> Path:
    """Where the roles of the program in `path` lie: ``FILE.roles.json``."""
    return path.with_name(path.name + ".roles.json")


def roles_to_json(roles: Roles, *, indent: int | None = 1) -> str:
    """Canonical text: equal roles give equal text.

    Args:
        roles: Any.
        indent: None for a text without line breaks, written in a tenth of the time.
    """
    arguments = [
        {
            "name": argument.name,
            "role": argument.role.value,
            "batch_dim": argument.batch_dim,
            "donated": argument.donated,
        }
        for argument in roles.arguments
    ]
    results = [
        {"name": result.name, "replaces": result.replaces, "is_loss": result.is_loss}
        for result in roles.results
    ]
    content = {"arguments": arguments, "results": results}
    return json.dumps(content, indent=indent, ensure_ascii=True) + "\n"


def roles_from_json(text: str, *, where: str) -> Roles:
    """The roles in a sidecar; keys other than ``name`` may be left out.

    Args:
        text: Content of the sidecar.
        where: Its file name, for errors.

    Raises:
        RolesError: if it is no JSON, lacks a name, or has an unknown key or role.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise RolesError(
            f"the roles are no JSON: {error}", where=where, hint=_FORM
        ) from None
    entries = {}
    for part, keys in (("arguments", ARGUMENT_KEYS), ("results", RESULT_KEYS)):
        listed = content.get(part) if isinstance(content, dict) else None
        if not isinstance(listed, list):
            raise RolesError(
                f"the roles have no list {part!r}", where=where, hint=_FORM
            )
        for number, entry in enumerate(listed):
            _check_entry(entry, keys, where=f"{where}, {part}[{number}]")
        entries[part] = listed
    return Roles(
        tuple(
            _argument(entry, where=f"{where}, arguments[{number}]")
            for number, entry in enumerate(entries["arguments"])
        ),
        tuple(
            ResultRole(
                entry["name"], entry.get("replaces"), entry.get("is_loss", False)
            )
            for entry in entries["results"]
        ),
    )


def check_roles(program: Program, roles: Roles) -> None:
    """Checks that the roles speak of this program.

    Raises:
        RolesError: if counts differ, names are not unique, a batch dim is out of
            range, or a result replaces what is no state of its shape and dtype.
    """
    _check_names("argument", [role.name for role in roles.arguments])
    _check_names("result", [role.name for role in roles.results])
    inner = {value.name for value in program.values if value.producer is not None}
    for role in roles.arguments:
        if role.name in inner:
            raise RolesError(
                f"argument name {role.name!r} is that of an inner value",
                hint="choose another name",
            )
    _check_count("arguments", len(roles.arguments), len(program.arguments))
    _check_count("results", len(roles.results), len(program.results))
    for argument, index in zip(roles.arguments, program.arguments, strict=True):
        rank = len(program.values[index].shape)
        if argument.batch_dim is not None and not 0 <= argument.batch_dim < rank:
            raise RolesError(
                f"batch_dim {argument.batch_dim} of argument {argument.name!r} is out "
                f"of range: its shape is {program.values[index].shape}",
                hint=f"use 0 to {rank - 1}" if rank else "leave batch_dim out",
            )
    _check_replacements(program, roles)


def _check_replacements(program: Program, roles: Roles) -> None:
    arguments = dict(
        zip((role.name for role in roles.arguments), program.arguments, strict=True)
    )
    states = {role.name for role in roles.arguments if role.role is Role.STATE}
    replaced: dict[str, str] = {}
    for result, index in zip(roles.results, program.results, strict=True):
        name = result.replaces
        if name is None:
            continue
        if name not in states:
            raise RolesError(
                f"result {result.name!r} replaces {name!r}, which is no state argument",
                hint="name an argument whose role is state",
            )
        if name in replaced:
            raise RolesError(
                f"results {replaced[name]!r} and {result.name!r} both replace {name!r}",
                hint="let one result replace each state",
            )
        replaced[name] = result.name
        old, new = program.values[arguments[name]], program.values[index]
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise RolesError(
                f"result {result.name!r} is {new.dtype}{list(new.shape)} and cannot "
                f"replace {name!r}, which is {old.dtype}{list(old.shape)}",
                hint="a state's next value has its shape and dtype",
            )


def _check_names(what: str, names: Iterable[str]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise RolesError(
                f"two {what}s are called {name!r}", hint="names are unique"
            )
        seen.add(name)


def _check_count(what: str, stated: int, actual: int) -> None:
    if stated != actual:
        raise RolesError(
            f"the roles name {stated} {what}, the program has {actual}",
            hint=f"list every one of the {what}, in the program's order",
        )


def _check_entry(entry: object, keys: frozenset[str], *, where: str) -> None:
    if not isinstance(entry, dict):
        raise RolesError(
            f"the entry is {entry!r:.60}, no JSON object",
            where=where,
            hint=f"write an object with keys of {', '.join(sorted(keys))}",
        )
    unknown = sorted(set(entry) - keys)
    if unknown:
        raise RolesError(
            f"unknown key {unknown[0]!r}",
            where=where,
            hint=f"known keys: {', '.join(sorted(keys))}",
        )
    _check_type(entry, "name", str, where=where, required=True)
    _check_type(entry, "replaces", str, where=where)
    _check_type(entry, "batch_dim", int, where=where)
    for flag in ("donated", "is_loss"):
        if not isinstance(stated := entry.get(flag, False), bool):
            raise RolesError(
                f"{flag} is {stated!r:.60}", where=where, hint="write true or false"
            )


def _check_type(
    entry: dict[str, object],
    key: str,
    type_: type,
    *,
    where: str,
    required: bool = False,
) -> None:
    value = entry.get(key)
    if value is None and not required:
        return
    if not isinstance(value, type_) or isinstance(value, bool):
        raise RolesError(
            f"{key} is {value!r:.60}",
            where=where,
            hint="write a string" if type_ is str else "write a whole number",
        )


def _argument(entry: dict[str, str], *, where: str) -> ArgumentRole:
    try:
        role = Role(entry.get("role", ""))
    except ValueError:
        raise RolesError(
            f"role {entry.get('role')!r} of argument {entry['name']!r} is unknown",
            where=where,
            hint=f"use one of {', '.join(Role)}",
        ) from None
    batch_dim = entry.get("batch_dim")
    return ArgumentRole(
        entry["name"],
        role,
        batch_dim=None if batch_dim is None else int(batch_dim),
        donated=bool(entry.get("donated", False)),
    )
