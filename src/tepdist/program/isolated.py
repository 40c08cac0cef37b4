"""Prepares a program in a child process, which may die of the bytes without harm.

The child gets the bytes on stdin. It answers on stdout with one line of JSON, an
error or the aliases, then the normalised module twice: as it is, of a length that the
JSON states, and in its canonical form. The second takes a second for 55,000 ops, in
which the parent reads the first.
"""

import functools
import gc
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO

from tepdist import children
from tepdist.errors import ProgramError
from tepdist.program.aliases import Aliases
from tepdist.program.module import DAMAGED_HINT, short

TIME_LIMIT_S = 300
_START = "from tepdist.program import isolated, reader; isolated.answer(reader.prepare)"


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


@contextmanager
def prepared_apart(data: bytes) -> Iterator[Prepared]:
    """What `reader.prepare` gives for these bytes, from a child.

    Raises:
        ProgramError: what the reading raised, or that the child died of the bytes.
    """
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(
            children.command(_START),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
        ) as process,
    ):
        child = _Child(process, words)
        try:
            yield child.read(data)
        finally:
            child.end()


class _Child:
    """A child that reads one program."""

    def __init__(self, process: subprocess.Popen[bytes], words: IO[bytes]) -> None:
        self._process, self._words = process, words
        self._is_late = False
        self._timer = threading.Timer(TIME_LIMIT_S, self._stop)
        self._timer.daemon = True
        self._timer.start()

    def read(self, data: bytes) -> Prepared:
        assert self._process.stdin is not None
        # It may be dead already.
        with suppress(BrokenPipeError):
            self._process.stdin.write(data)
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        header = self._output.readline()
        if not header:
            raise self._death()
        fields = json.loads(header)
        if "problem" in fields:
            raise ProgramError(
                fields["problem"], where=fields["where"], hint=fields["hint"]
            )
        draft = functools.partial(self._output.read, fields["draft_bytes"])
        aliases = Aliases.from_json(fields["aliases"])
        return Prepared(draft, self._bytecode, aliases)

    def end(self) -> None:
        self._timer.cancel()
        self._process.kill()

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _bytecode(self) -> bytes:
        bytecode = self._output.read()
        if self._process.wait():
            raise self._death()
        return bytecode

    def _stop(self) -> None:
        self._is_late = True
        self._process.kill()

    def _death(self) -> ProgramError:
        self._process.wait()
        if self._is_late:
            problem = f"reading took over {TIME_LIMIT_S} s"
        else:
            self._words.seek(0)
            last = self._words.read().decode(errors="replace").strip().rpartition("\n")
            problem = f"the compiler died reading the bytes: {short(last[2])}"
        return ProgramError(problem, hint=DAMAGED_HINT)


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
