"""Our frozen dataclasses as plain JSON data, and back with every type checked.

A field's name is its key (``bytes_`` is written ``bytes``). Unknown keys are passed
over and a missing one takes the field's default, so that later versions may add some.
Reading raises `PlanError` with the path of the first key that is not as it should be.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from tepdist.errors import OptionsError, PlanError, ShardingError
from tepdist.sharding import Mesh, Sharding

Json = dict[str, Any] | list[Any] | str | int | float | bool | None


def encode(value: Any) -> Json:
    """Plain data for a value made of dataclasses, tuples, mappings and scalars.

    >>> encode(Sharding((("x",), ())))
    [['x'], []]
    """
    match value:
        case StrEnum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case Mesh():
            return {"axes": dict(value.axes)}
        case Sharding():
            return [list(axes) for axes in value.dims]
        case Mapping():
            return {str(key): encode(item) for key, item in value.items()}
        case tuple() | list():
            return [encode(item) for item in value]
    kind: Any = type(value)
    return {key: encode(getattr(value, name)) for name, key in _names_and_keys(kind)}


@functools.cache
def _names_and_keys(kind: Any) -> tuple[tuple[str, str], ...]:
    return tuple((field.name, _key(field.name)) for field in dataclasses.fields(kind))


def decode(kind: Any, data: Any, path: str) -> Any:
    """The value of this type that `encode` turned into `data`.

    Args:
        kind: A dataclass, a scalar type, ``tuple[X, ...]``, ``Mapping[str, X]`` or one
            of these or None.
        data: Decoded JSON.
        path: Where `data` stands, for errors.

    Raises:
        PlanError: if `data` is not of that type.
    """
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        return None if data is None else decode(_without_none(kind), data, path)
    if origin is tuple:
        (item, _) = typing.get_args(kind)
        return tuple(
            decode(item, entry, f"{path}[{index}]")
            for index, entry in enumerate(_expect(list, data, path))
        )
    if origin is Mapping:
        (_, item) = typing.get_args(kind)
        entries = _expect(dict, data, path).items()
        return {key: decode(item, entry, f"{path}.{key}") for key, entry in entries}
    if kind is Mesh or kind is Sharding:
        return _decode_placement(kind, data, path)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, data, path)
    return _decode_scalar(kind, data, path)


def look_up(kind: Any, document: Any, key: str) -> Any:
    """Decodes the entry of this dotted key of a document.

    >>> look_up(int, {"program": {"num_ops": 3}}, "program.num_ops")
    3
    """
    data, path = document, ""
    for part in key.split("."):
        entries = _expect(dict, data, path or "the plan")
        path = f"{path}.{part}" if path else part
        if part not in entries:
            raise PlanError(f"plan key {path!r} is missing")
        data = entries[part]
    return decode(kind, data, key)


def _decode_scalar(kind: Any, data: Any, path: str) -> Any:
    if issubclass(kind, StrEnum):
        try:
            return kind(data)
        except ValueError:
            known = ", ".join(member.value for member in kind)
            raise PlanError(
                f"plan key {path!r} is {data!r:.60}, not one of {known}"
            ) from None
    if kind is float and type(data) is int:
        return data if abs(data) >= 2**53 else float(data)
    return _expect(kind, data, path)


def _decode_placement(kind: type[Mesh] | type[Sharding], data: Any, path: str) -> Any:
    try:
        if kind is Mesh:
            return Mesh(tuple(look_up(Mapping[str, int], data, "axes").items()))
        return Sharding(decode(tuple[tuple[str, ...], ...], data, path))
    except (OptionsError, ShardingError) as error:
        raise PlanError(f"plan key {path!r}: {error.problem}") from None


def _decode_dataclass(kind: Any, data: Any, path: str) -> Any:
    entries = _expect(dict, data, path)
    arguments: dict[str, Any] = {}
    for name, (hint, is_required) in _fields(kind):
        key = _key(name)
        if key in entries:
            arguments[name] = decode(hint, entries[key], f"{path}.{key}")
        elif is_required:
            raise PlanError(f"plan key '{path}.{key}' is missing")
    return kind(**arguments)


def _expect(kind: type, data: Any, path: str) -> Any:
    # A bool is an int to isinstance and would pass for a count.
    if type(data) is not kind:
        raise PlanError(
            f"plan key {path!r} is {type(data).__name__} {data!r:.60}, "
            f"not {kind.__name__}"
        )
    return data


def _without_none(kind: Any) -> Any:
    (rest,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    return rest


@functools.cache
def _fields(kind: type) -> tuple[tuple[str, tuple[Any, bool]], ...]:
    """Name to type and whether it must be given, of each field."""
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    return tuple(
        (
            field.name,
            (
                hints[field.name],
                field.default is missing and field.default_factory is missing,
            ),
        )
        for field in dataclasses.fields(kind)
    )


def _key(name: str) -> str:
    return name.rstrip("_")
