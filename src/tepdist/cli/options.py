"""Planning options as the command line writes them: the Python words with dashes."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from tepdist.errors import OptionsError, located
from tepdist.frontends.options import PLAN_WORDS, parse_size, read_options
from tepdist.sharding import Mesh

EXAMPLE = '{"params/*/mlp/w1": [null, "model"]}'


def read_constraints_file(path: Path) -> Mapping[str, Any]:
    """Constraints from a JSON file: name pattern to per dim null, an axis or several.

    Raises:
        OptionsError: if it cannot be read or is not of that form.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionsError(
            f"the constraints cannot be read: {error.strerror}",
            where=str(path),
            hint=f"--constraints takes a file that holds e.g. {EXAMPLE}",
        ) from None
    except ValueError as error:
        raise OptionsError(
            f"the constraints are not JSON: {error}",
            where=str(path),
            hint=f"write {EXAMPLE}",
        ) from None
    is_table = isinstance(document, dict)
    if not is_table or not all(isinstance(dims, list) for dims in document.values()):
        raise OptionsError(
            "the constraints are not an object of name patterns and lists",
            where=str(path),
            hint=f"write {EXAMPLE}",
        )
    constraints: Mapping[str, Any] = document
    return constraints


def _at(flag: str, parse: Callable[[str], Any]) -> Callable[..., Any]:
    """A click callback that parses a flag and says in errors which one it was."""

    def callback(_context: click.Context, _parameter: Any, text: str | None) -> Any:
        if text is None:
            return None
        with located(f"{flag} {text}"):
            return parse(text)

    return callback


# Each is named after the word of `tepdist.frontends.options` that it gives.
_FLAGS = (
    click.option(
        "--level",
        type=click.Choice(["O1", "O2", "O3"]),
        default="O2",
        show_default=True,
        help="O1: quick; O2: solver, with a lower bound; O3: longer, best compiled.",
    ),
    click.option(
        "--mesh", callback=_at("--mesh", Mesh.parse), help="2x4 or data=2,model=4."
    ),
    click.option(
        "--stages", "num_stages", type=click.IntRange(1), help="Pipeline stages."
    ),
    click.option(
        "--micro-batches",
        "num_micro_batches",
        type=click.IntRange(1),
        help="Slices of the batch.",
    ),
    click.option("--schedule", help="Pipeline schedule."),
    click.option(
        "--zero",
        type=click.IntRange(0, 3),
        help="ZeRO stage: what of the state is sharded where gradients are summed.",
    ),
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
        callback=_at("--constraints", lambda text: read_constraints_file(Path(text))),
        help=f"JSON file: {EXAMPLE}.",
    ),
)


def planning_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the planning flags, and hands them over as `options`."""

    @functools.wraps(command)
    def with_options(**given: Any) -> Any:
        words = {name: given.pop(name) for name in PLAN_WORDS if name in given}
        return command(options=read_options(words), **given)

    decorated: Callable[..., Any] = with_options
    for flag in reversed(_FLAGS):
        decorated = flag(decorated)
    return decorated
