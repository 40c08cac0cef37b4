"""The time of one search: what is left of it, and where it went.

A level searches as the level below does, for as long as that may, and then goes on:
so that it is never worse.
"""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from tepdist.plans.types import Options

Progress = Callable[[str, float], None]

DEFAULT_TIME_LIMIT_S: Mapping[str, float] = MappingProxyType(
    {"O1": 30.0, "O2": 60.0, "O3": 600.0}
)
# Unless told how long to search, O2 spends no more on limits, all meshes together [s].
_LIMITS_S = 2.2
# Share of O3's time for what goes beyond O2; the rest is for the compiler.
_O3_SHARE = 0.7


def never() -> bool:
    """For what has all the time it takes."""
    return False


def time_limit_s(options: Options) -> float:
    """How long a search may take in all, compiling included [s]."""
    asked = options.time_limit_s
    return DEFAULT_TIME_LIMIT_S[options.level] if asked is None else asked


class TimeIsOver(Exception):
    """Something is left unfinished."""


class Clock:
    """Time left, and where it went.

    Attributes:
        phases: Name to seconds.
    """

    def __init__(self, limit_s: float | None) -> None:
        """Starts.

        Args:
            limit_s: What the user allows; None for the default of each level [s].
        """
        self._start = self._last = time.perf_counter()
        self._asked_s = limit_s
        self._extra_s = 0.0
        self._limit_s = self._limits_s = 0.0
        self.phases: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @property
    def left(self) -> float:
        return max(self._limit_s - self.seconds, 0.0)

    def allow(self, level: str) -> None:
        """Sets the time until which a level may search."""
        asked = self._asked_s
        self._limit_s = DEFAULT_TIME_LIMIT_S[level] if asked is None else asked
        if level == "O3":
            self._limit_s *= _O3_SHARE
        may_take_all = asked is not None or level == "O3"
        self._limits_s = self._limit_s if may_take_all else _LIMITS_S
        if asked is None:
            self._limit_s += self._extra_s

    def leave_out(self, seconds: float) -> None:
        """Adds time that counts against no default limit."""
        self._extra_s += seconds
        if self._asked_s is None:
            self._limit_s += seconds

    def is_over(self) -> bool:
        return self.left <= 0

    def left_for_limits(self, share: float) -> Callable[[], float]:
        """Time left of a share of that for limits, counted from now [s]."""
        end = self.seconds + self._limits_s * share
        return lambda: min(self.left, max(end - self.seconds, 0.0))

    def lap(self, phase: str) -> None:
        """Books the time since the last lap under a phase."""
        now = time.perf_counter()
        self.phases[phase] = self.phases.get(phase, 0.0) + now - self._last
        self._last = now
