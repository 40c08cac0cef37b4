"""What a child that prepares a program says, and what its parent makes of it."""

import functools
import gc
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from tepdist.errors import ProgramError
from tepdist.program.aliases import Aliases
from tepdist.program.preparation import Preparation


@dataclass(frozen=True, slots=True)
class Prepared:
    """A normalised module and what it said before it was normalised.

    Attributes:
        draft: Gives bytecode that says the same as the canonical one; often the same
            bytes. To be asked for before that.
        bytecode: Gives the canonical bytecode, which equal modules have in common.
        aliases: What the module said.
    """

    draft: Callable[[], bytes] = field(repr=False)
    bytecode: Callable[[], bytes] = field(repr=False)
    aliases: Aliases


def prepared_by(preparation: Preparation) -> Prepared:
    """What `reader.prepare` gave in a child.

    Raises:
        ProgramError: what the reading raised, or that the child died of the bytes.
    """
    fields = preparation.header()
    return Prepared(
        functools.partial(preparation.read, fields["draft_bytes"]),
        preparation.rest,
        Aliases.from_json(fields["aliases"]),
    )


def answer(prepare: Callable[[bytes], Prepared]) -> None:
    """What the child does."""
    gc.disable()  # it lives for one program
    out = sys.stdout.buffer
    try:
        prepared = prepare(sys.stdin.buffer.read())
        draft = prepared.draft()
    except ProgramError as error:
        fields = {"problem": error.problem, "where": error.where, "hint": error.hint}
        out.write(json.dumps(fields).encode() + b"\n")
        return
    header = {
        "aliases": prepared.aliases.to_json(),
        "draft_bytes": len(draft),
    }
    out.write(json.dumps(header).encode() + b"\n" + draft)
    out.flush()
    out.write(prepared.bytecode())
