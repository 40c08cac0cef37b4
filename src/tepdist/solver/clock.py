"""The time that a solve may take."""

from collections.abc import Callable
from time import monotonic


class Clock:
    """Runs from when it is made."""

    def __init__(self, time_limit_s: float) -> None:
        self._until = monotonic() + time_limit_s

    def left_s(self) -> float:
        """Time left, below 0 once it is spent [s]."""
        return self._until - monotonic()

    def past(self, share: float) -> Callable[[], bool]:
        """What tells whether a share of the time left now has passed."""
        until = monotonic() + share * max(0.0, self.left_s())
        return lambda: monotonic() >= until
