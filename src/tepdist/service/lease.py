"""Keeps a session's lease from the client's side."""

import threading
from collections.abc import Callable

from tepdist.errors import ConnectionLost, SessionError

# Two keep-alives may get lost before the lease lapses.
_RENEWALS_PER_TTL = 3


class LeaseKeeper:
    """Renews a lease from a thread of its own until told to stop.

    Args:
        renew: Renews it once.
        ttl_s: Length of the lease [s].
    """

    def __init__(self, renew: Callable[[], object], ttl_s: float) -> None:
        self._renew = renew
        self._every_s = ttl_s / _RENEWALS_PER_TTL
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="tepdist-lease", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            try:
                self._renew()
            except ConnectionLost:
                continue  # the server may be back before the lease lapses
            except SessionError:
                return  # it is over; the user's next call says so
