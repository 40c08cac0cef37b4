"""Options of a function, as users give them in Python: its arguments and its plan."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tepdist.frontends.call import CallOptions, call_options
from tepdist.frontends.options import (
    PLAN_WORDS,
    PlanOptions,
    read_flag,
    read_options,
    unknown_option,
)
from tepdist.plans.types import Options


class StepOptions(PlanOptions, total=False):
    """Options of a function: what its arguments are, and what to ask of a search.

    See `tepdist.frontends.jax.trace` for the former.
    """

    state_argnums: int | Iterable[int]
    batch_argnums: int | Iterable[int] | None
    static_argnums: int | Iterable[int]
    static_argnames: str | Iterable[str]
    donate: bool


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """A function's options, read.

    Attributes:
        call: What its arguments are.
        donate: Whether a state that is replaced may be overwritten.
        plan: What to ask of the search.
    """

    call: CallOptions
    donate: bool
    plan: Options


CALL_WORDS = ("state_argnums", "batch_argnums", "static_argnums", "static_argnames")
STEP_WORDS = (*PLAN_WORDS, *CALL_WORDS, "donate")


def read_step_options(fn: Callable[..., Any], given: StepOptions) -> ReadOptions:
    """All options that a user gave for a function by keyword.

    Raises:
        OptionsError: naming an option that is unknown or not readable.
    """
    words: dict[str, Any] = dict(given)
    for name in words:
        if name not in STEP_WORDS:
            raise unknown_option(name, STEP_WORDS)
    donate = read_flag(words.pop("donate", True), "donate")
    call = {name: words.pop(name) for name in CALL_WORDS if name in words}
    return ReadOptions(call_options(fn, **call), donate, read_options(words))
