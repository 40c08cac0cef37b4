"""Planning options as the command line writes them."""

import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from tepdist.errors import OptionsError
from tepdist.plan.types import Options
from tepdist.sharding import Mesh

Dims = tuple[tuple[str, ...], ...]

UNITS: Mapping[str, int] = MappingProxyType(
    {
        "": 1,
        "b": 1,
        "kb": 10**3,
        "mb": 10**6,
        "gb": 10**9,
        "tb": 10**12,
        "kib": 2**10,
        "mib": 2**20,
        "gib": 2**30,
        "tib": 2**40,
    }
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


def parse_size(text: str) -> int:
    """A size in bytes.

    >>> parse_size("1.5GiB"), parse_size("2GB"), parse_size("512")
    (1610612736, 2000000000, 512)

    Raises:
        OptionsError: if it is not a positive number and a unit.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None or float(match[1]) <= 0:
        raise OptionsError(f"size {text!r} is not readable", hint="write e.g. 40GiB")
    return int(float(match[1]) * unit)


def parse_constraints(document: Any) -> Mapping[str, Dims]:
    """Name patterns to shardings from decoded JSON.

    >>> parse_constraints({"params/*/w1": [None, "model"]})
    {'params/*/w1': ((), ('model',))}

    Raises:
        OptionsError: if it is not of that form.
    """
    if not isinstance(document, dict):
        raise OptionsError(
            "constraints are not an object of name patterns",
            hint='write {"params/*/mlp/w1": [null, "model"]}',
        )
    return {pattern: _parse_dims(pattern, dims) for pattern, dims in document.items()}


def read_constraints(path: Path) -> Mapping[str, Dims]:
    """Constraints from a JSON file.

    Raises:
        OptionsError: if it cannot be read or is not of the form above.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionsError(
            f"the constraints cannot be read: {error.strerror}", where=str(path)
        ) from None
    except ValueError as error:
        raise OptionsError(
            f"the constraints are not JSON: {error}", where=str(path)
        ) from None
    try:
        return parse_constraints(document)
    except OptionsError as error:
        raise OptionsError(error.problem, where=str(path), hint=error.hint) from None


def _parse_dims(pattern: str, dims: Any) -> Dims:
    parsed: list[tuple[str, ...]] = []
    for axes in dims if isinstance(dims, list) else [dims]:
        match axes:
            case None:
                parsed.append(())
            case str():
                parsed.append((axes,))
            case list() if all(isinstance(axis, str) for axis in axes):
                parsed.append(tuple(axes))
            case _:
                raise OptionsError(
                    f"constraint {pattern!r} is not a list of mesh axes: {dims!r}",
                    hint='write per dim null, "axis" or ["axis", "axis"]',
                )
    return tuple(parsed)


def _at(flag: str, parse: Callable[[str], Any]) -> Callable[..., Any]:
    """A click callback that parses a flag and says in errors which one it was."""

    def callback(_context: click.Context, _parameter: Any, text: str | None) -> Any:
        if text is None:
            return None
        try:
            return parse(text)
        except OptionsError as error:
            where = error.where or f"{flag} {text}"
            raise OptionsError(error.problem, where=where, hint=error.hint) from None

    return callback


_FLAGS = (
    click.option(
        "--level",
        type=click.Choice(["O1", "O2", "O3"]),
        default="O2",
        show_default=True,
        help="O1: rules of thumb; O2: solver, with a lower bound; O3: stages too.",
    ),
    click.option(
        "--mesh", callback=_at("--mesh", Mesh.parse), help="2x4, data=2,model=4."
    ),
    click.option("--stages", type=click.IntRange(1), help="Pipeline stages."),
    click.option("--micro-batches", type=click.IntRange(1), help="Micro-batches."),
    click.option("--schedule", help="Pipeline schedule."),
    click.option(
        "--memory-limit",
        callback=_at("--memory-limit", parse_size),
        help="Per device, e.g. 40GiB; default: the device's usable bytes.",
    ),
    click.option(
        "--time-limit",
        type=click.FloatRange(0, min_open=True),
        help="Seconds the search may take.",
    ),
    click.option(
        "--constraints",
        callback=_at("--constraints", lambda text: read_constraints(Path(text))),
        help='JSON file: {"params/*/mlp/w1": [null, "model"]}.',
    ),
)


def planning_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the planning flags, and hands them over as `options`."""

    @functools.wraps(command)
    def with_options(
        *,
        stages: int | None,
        micro_batches: int | None,
        memory_limit: int | None,
        time_limit: float | None,
        constraints: Mapping[str, Dims] | None,
        **rest: Any,
    ) -> Any:
        options = Options(
            level=rest.pop("level"),
            mesh=rest.pop("mesh"),
            num_stages=stages,
            num_micro_batches=micro_batches,
            schedule=rest.pop("schedule"),
            memory_limit_bytes=memory_limit,
            time_limit_s=time_limit,
            constraints=constraints or {},
        )
        return command(options=options, **rest)

    decorated: Callable[..., Any] = with_options
    for flag in reversed(_FLAGS):
        decorated = flag(decorated)
    return decorated
