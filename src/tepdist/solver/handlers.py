"""Keeps a library from taking the process's signal handlers.

toulbar2 installs handlers of its own for each solve and leaves them, so that Ctrl-C
would go unheard ever after. Python can set handlers in the main thread only; the C
library can put them back from any.
"""

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGVTALRM)
_ACTION_BYTES = 512  # more than any platform's struct sigaction


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Puts the handlers back that were in force on entry."""
    library = ctypes.CDLL(None)
    kept = {number: ctypes.create_string_buffer(_ACTION_BYTES) for number in _SIGNALS}
    for number, action in kept.items():
        library.sigaction(int(number), None, action)
    try:
        yield
    finally:
        # Its timer goes on after a solve; unheard, it would end the process.
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        for number, action in kept.items():
            library.sigaction(int(number), action, None)
