"""Keys of built-in programs: what may be set, and reading ``name:size:key=value``.

A model's keys are the fields of a frozen dataclass: the field's default is the key's
default, its type the key's type, its metadata the text and the choices.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax.numpy as jnp

from tepdist.errors import OptionsError

K = TypeVar("K")

DTYPES: Mapping[str, Any] = {
    "f32": jnp.float32,
    "bf16": jnp.bfloat16,
    "f16": jnp.float16,
}
BOOLEANS = {"true": True, "false": False}


def key(default: object, text: str, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field that is a key."""
    metadata = {"text": text, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key, for people.

    Attributes:
        name: As written before the ``=``.
        default: Its value unless a size or the user sets it.
        text: What it means.
        choices: The values it may take; None if not a closed list.
    """

    name: str
    default: object
    text: str
    choices: tuple[str, ...] | None


def key_rows(keys: type) -> tuple[KeyRow, ...]:
    """The keys of a model."""
    return tuple(
        KeyRow(
            field.name,
            field.default,
            field.metadata["text"],
            field.metadata["choices"],
        )
        for field in dataclasses.fields(keys)
    )


@dataclass(frozen=True, slots=True)
class Spec:
    """``name[:size][:key=value,..]`` taken apart, not yet understood."""

    name: str
    size: str | None
    settings: Mapping[str, str]


def parse_spec(text: str) -> Spec:
    """Takes a spec apart.

    >>> parse_spec("zoo:gpt:tiny:batch=4")
    Spec(name='gpt', size='tiny', settings={'batch': '4'})

    Raises:
        OptionsError: if a part is neither a name nor settings, or comes twice.
    """
    name, *parts = text.removeprefix("zoo:").split(":")
    settings: dict[str, str] = {}
    size = None
    for index, part in enumerate(parts):
        if "=" in part:
            settings |= _parse_settings(part, text)
        elif index == 0 and part:
            size = part
        else:
            raise OptionsError(
                f"{part!r} is not key=value",
                where=f"zoo:{text.removeprefix('zoo:')}",
                hint="write NAME[:SIZE][:key=value,..]",
            )
    return Spec(name, size, settings)


def _parse_settings(part: str, text: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for pair in part.split(","):
        name, equals, value = pair.partition("=")
        if not equals or not name or not value or name in settings:
            raise OptionsError(
                f"{pair!r} is not key=value, or sets a key twice",
                where=f"zoo:{text.removeprefix('zoo:')}",
                hint="write NAME[:SIZE][:key=value,..]",
            )
        settings[name] = value
    return settings


def settle(keys: K, settings: Mapping[str, str], *, where: str) -> K:
    """These keys with the user's settings applied.

    Raises:
        OptionsError: naming an unknown key with the known ones, or a value that the
            key cannot take.
    """
    rows = {row.name: row for row in key_rows(type(keys))}
    for name in settings:
        if name not in rows:
            raise unknown("key", name, tuple(rows), where=where)
    values = {
        name: _read(rows[name], value, where=where) for name, value in settings.items()
    }
    return dataclasses.replace(keys, **values)  # type: ignore[type-var]


def unknown(
    what: str, name: str, known: tuple[str, ...], *, where: str | None = None
) -> OptionsError:
    """The error for a name that is not among the known ones."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return OptionsError(
        f"unknown {what} {name!r}", where=where, hint=f"{hint}known: {', '.join(known)}"
    )


def _read(row: KeyRow, text: str, *, where: str) -> object:
    if isinstance(row.default, bool):
        if text in BOOLEANS:
            return BOOLEANS[text]
        wanted = "true or false"
    elif isinstance(row.default, int):
        if text.isascii() and text.isdigit() and int(text) > 0:
            return int(text)
        wanted = "a positive integer"
    elif isinstance(row.default, float):
        value = _read_float(text)
        if value is not None and 0.0 <= value < float("inf"):
            return value
        wanted = "a number not below 0"
    else:
        if row.choices is not None and text in row.choices:
            return text
        wanted = " or ".join(row.choices or ())
    raise OptionsError(
        f"key {row.name}={text} is not {wanted}",
        where=where,
        hint=f"leave it out for {row.default}",
    )


def _read_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
