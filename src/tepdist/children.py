"""Python child processes of our own: the part of the work that may die, or must end."""

import json
import sys

from tepdist.errors import TepdistError

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "


def command(statements: str) -> list[str]:
    """Command line of a child that runs some statements.

    The import path is handed over: this process's own may have been set by hand.

    Raises:
        TepdistError: if this Python does not know where its executable is.
    """
    if not sys.executable:
        raise TepdistError(
            "no child process can be started: sys.executable is empty",
            hint="set sys.executable to a Python that has this package's libraries",
        )
    # Python passes over entries that are no text.
    path = [entry for entry in sys.path if isinstance(entry, str)]
    return [sys.executable, "-c", _START + statements, json.dumps(path)]
