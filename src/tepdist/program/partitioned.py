"""Calls of functions that their authors partition: ``jax.custom_partitioning``.

JAX puts a call whose configuration is the key of something in the process that traced
it. In a program it is the number of the call, so that programs do not depend on the
process; who compiles one in that process puts the keys back.
"""

from collections.abc import Iterator, Sequence

from jaxlib.mlir import ir

from tepdist.errors import ProgramError
from tepdist.program.graph import CUSTOM_CALL
from tepdist.program.inline import find_ops

TARGET = "CustomSPMDPartitioning"
_CONFIG = "backend_config"
_PREFIX = "partitioned."


def number_calls(module: ir.Module) -> tuple[str, ...]:
    """Numbers the calls in place; the keys that they had, in order."""
    numbers: dict[str, int] = {}
    for call in _calls(module):
        key = ir.StringAttr(call.attributes[_CONFIG]).value
        if not key.startswith(_PREFIX):
            number = numbers.setdefault(key, len(numbers))
            call.attributes[_CONFIG] = ir.StringAttr.get(f"{_PREFIX}{number}")
    return tuple(numbers)


def fill_calls(module: ir.Module, keys: Sequence[str]) -> None:
    """Puts keys where `number_calls` put numbers, in place.

    Raises:
        ProgramError: if there are too few of them.
    """
    for call in _calls(module):
        config = ir.StringAttr(call.attributes[_CONFIG]).value
        number = int(config.removeprefix(_PREFIX))
        if number >= len(keys):
            raise ProgramError(
                "the program calls functions under custom_partitioning, which only the "
                "process that traced them knows",
                hint="run it where it was traced, by tepdist.parallelize",
            )
        call.attributes[_CONFIG] = ir.StringAttr.get(keys[number])


def _calls(module: ir.Module) -> Iterator[ir.Operation]:
    for call in find_ops(module, {CUSTOM_CALL}):
        target = ir.StringAttr(call.attributes["call_target_name"]).value
        if target == TARGET and _CONFIG in call.attributes:
            yield call
