"""Python child processes of our own: the part of the work that may die, or must end."""

import json
import sys

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "


def command(statements: str) -> list[str]:
    """Command line of a child that runs some statements.

    The import path is handed over: this process's own may have been set by hand.
    """
    return [sys.executable, "-c", _START + statements, json.dumps(sys.path)]
