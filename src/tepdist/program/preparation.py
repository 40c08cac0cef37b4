"""A child process that prepares a program, which may die of the bytes without harm.

The child gets the bytes on stdin. It answers on stdout with one line of JSON, an
error or the aliases, then the normalised module twice: as it is, of a length that the
JSON states, and in its canonical form. The second takes a second for 55,000 ops, in
which the parent reads the first.

Nothing here imports jaxlib, so that a child can start before its parent has done so.
"""

import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from tepdist import children
from tepdist.errors import ProgramError, shortened

TIME_LIMIT_S = 300
DAMAGED_HINT = "if it was damaged or cut short, write or export it again"
_START = "from tepdist.program import isolated, reader; isolated.answer(reader.prepare)"


@contextmanager
def preparing(source: bytes | IO[bytes]) -> Iterator["Preparation"]:
    """A child that begins at once and ends with the context.

    Args:
        source: What it reads: bytes, or a file.
    """
    with (
        tempfile.TemporaryFile() as words,
        subprocess.Popen(
            children.command(_START),
            stdin=subprocess.PIPE if isinstance(source, bytes) else source,
            stdout=subprocess.PIPE,
            stderr=words,
        ) as process,
    ):
        preparation = Preparation(process, words, source)
        try:
            yield preparation
        finally:
            preparation.end()


class Preparation:
    """A child that prepares one program."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        words: IO[bytes],
        source: bytes | IO[bytes],
    ) -> None:
        self._process, self._words, self._source = process, words, source
        self._is_late = False
        self._timer = threading.Timer(TIME_LIMIT_S, self._stop)
        self._timer.daemon = True
        self._timer.start()

    def header(self) -> dict[str, Any]:
        """What the child says first; to be asked for once.

        Raises:
            ProgramError: what it raised, or that it died of the bytes.
        """
        if isinstance(self._source, bytes):
            self._feed(self._source)
        line = self._output.readline()
        if not line:
            raise self._death()
        fields: dict[str, Any] = json.loads(line)
        if "problem" in fields:
            raise ProgramError(
                fields["problem"], where=fields["where"], hint=fields["hint"]
            )
        return fields

    def read(self, count: int) -> bytes:
        """So many bytes of what follows."""
        return self._output.read(count)

    def rest(self) -> bytes:
        """All that is left.

        Raises:
            ProgramError: if the child died before it was done.
        """
        found = self._output.read()
        if self._process.wait():
            raise self._death()
        return found

    def end(self) -> None:
        """Ends the child, whatever it does."""
        self._timer.cancel()
        self._process.kill()

    def _feed(self, data: bytes) -> None:
        assert self._process.stdin is not None
        # It may be dead already.
        with suppress(BrokenPipeError):
            self._process.stdin.write(data)
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _stop(self) -> None:
        self._is_late = True
        self._process.kill()

    def _death(self) -> ProgramError:
        self._process.wait()
        if self._is_late:
            problem = f"reading took over {TIME_LIMIT_S} s"
        else:
            self._words.seek(0)
            words = self._words.read().decode(errors="replace").strip()
            last = shortened(words.rpartition("\n")[2])
            problem = f"the compiler died reading the bytes: {last}"
        return ProgramError(problem, hint=DAMAGED_HINT)
