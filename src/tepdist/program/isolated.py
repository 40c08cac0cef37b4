"""Prepares a program in a child process, which may die of the bytes without harm.

The child gets the bytes on stdin. It answers on stdout with one line of JSON, an
error or the aliases, and after it the normalised bytecode.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from tepdist import children
from tepdist.errors import ProgramError
from tepdist.program.aliases import Aliases
from tepdist.program.module import DAMAGED_HINT, short

TIME_LIMIT_S = 300
_START = "from tepdist.program import isolated, reader; isolated.answer(reader.prepare)"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A normalised module and what it said before it was normalised."""

    bytecode: bytes = field(repr=False)
    aliases: Aliases


def prepare_isolated(data: bytes) -> Prepared:
    """What `reader.prepare` gives for these bytes, from a child.

    Raises:
        ProgramError: what the reading raised, or that the child died of the bytes.
    """
    try:
        child = subprocess.run(
            children.command(_START),
            input=data,
            capture_output=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProgramError(
            f"reading took over {TIME_LIMIT_S} s", hint=DAMAGED_HINT
        ) from None
    header, _, bytecode = child.stdout.partition(b"\n")
    if child.returncode:
        last_words = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ProgramError(
            f"the compiler died reading the bytes: {short(last_words)}",
            hint=DAMAGED_HINT,
        )
    fields = json.loads(header)
    if "problem" in fields:
        raise ProgramError(
            fields["problem"], where=fields["where"], hint=fields["hint"]
        )
    return Prepared(bytecode, Aliases.from_json(fields["aliases"]))


def answer(prepare: Callable[[bytes], Prepared]) -> None:
    """What the child does."""
    header: dict[str, str | None]
    try:
        prepared = prepare(sys.stdin.buffer.read())
        header = {"aliases": prepared.aliases.to_json()}
        bytecode = prepared.bytecode
    except ProgramError as error:
        header = {"problem": error.problem, "where": error.where, "hint": error.hint}
        bytecode = b""
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + bytecode)
