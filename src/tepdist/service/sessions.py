"""Sessions: who owns which tensors and programs, and until when.

Knows no sockets, no jax and no clock: times are passed in. A number (of a tensor or
program) carries its session's random prefix, so that one of another session is as
unknown as one that never was.
"""

import itertools
import math
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from tepdist.errors import SessionError, StateConsumed

_PREFIX_BITS = 31
_COUNT_BITS = 32
_SHORTEST_TTL_S = 0.1

Item = TypeVar("Item")
Tensor = TypeVar("Tensor")
Program = TypeVar("Program")


class Shelf(Generic[Item]):
    """Things under numbers that nobody else's shelf uses."""

    def __init__(self, what: str, prefix: int) -> None:
        self._what = what
        self._first = prefix << _COUNT_BITS
        self._next = self._first
        self._items: dict[int, Item] = {}
        self._lost: dict[int, str] = {}

    def add(self, item: Item) -> int:
        number = self._next
        self._next += 1
        self._items[number] = item
        return number

    def get(self, number: int) -> Item:
        """The thing under this number.

        Raises:
            SessionError: if this shelf never gave the number out.
            StateConsumed: if it did, and the thing is gone.
        """
        if number in self._items:
            return self._items[number]
        if number in self._lost:
            raise StateConsumed(
                f"{self._what} {number} is lost: {self._lost[number]}",
                hint="go on from another state, or put or make one anew",
            )
        if self._first <= number < self._next:
            raise StateConsumed(
                f"{self._what} {number} is gone: a step consumed it or it was released",
                hint="use the state that the last step returned",
            )
        raise SessionError(
            f"there is no {self._what} {number} in this session",
            hint="tensors and programs belong to the session that made them",
        )

    def replace(self, number: int, item: Item) -> None:
        """Puts another thing under a number, unless its thing is gone."""
        if number in self._items:
            self._items[number] = item

    def remove(self, numbers: Iterable[int]) -> None:
        """Ends numbers; those that are not there are passed over."""
        for number in numbers:
            self._items.pop(number, None)

    def lose(self, number: int, why: str) -> None:
        """Ends a number through no wish of its owner, who is told why."""
        self.remove([number])
        self._lost[number] = why

    def clear(self) -> None:
        self._items.clear()
        self._lost.clear()

    def items(self) -> tuple[tuple[int, Item], ...]:
        return tuple(self._items.items())

    def __contains__(self, number: int) -> bool:
        return number in self._items

    def __len__(self) -> int:
        return len(self._items)


class Session(Generic[Tensor, Program]):
    """What one client holds.

    Attributes:
        number: Counts the server's sessions, from 1; safe to show.
        key: The secret that names the session on the wire.
        client: Whose token opened it; None on a server without tokens.
        ttl_s: Length of its lease [s].
        opened_s: When it was opened, on the caller's clock [s].
        expires_s: When its lease lapses [s].
        num_calls: Calls under way; a session does not lapse under one.
        tensors: By handle.
        programs: By id.
        lock: Held while a call changes what the session holds.
    """

    def __init__(
        self, number: int, *, client: str | None, ttl_s: float, now_s: float
    ) -> None:
        prefix = secrets.randbits(_PREFIX_BITS)
        self.number = number
        self.key = secrets.token_hex(16)
        self.client = client
        self.ttl_s = ttl_s
        self.opened_s = now_s
        self.expires_s = now_s + ttl_s
        self.num_calls = 0
        self.tensors: Shelf[Tensor] = Shelf("tensor", prefix)
        self.programs: Shelf[Program] = Shelf("program", prefix)
        self.lock = threading.RLock()

    def free(self) -> None:
        """Lets go of all tensors and programs."""
        with self.lock:
            self.tensors.clear()
            self.programs.clear()


class Sessions(Generic[Tensor, Program]):
    """All open sessions and their leases.

    Args:
        ttl_s: Longest lease [s].
        clock: Seconds since any fixed moment.
    """

    def __init__(self, ttl_s: float, clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._numbers = itertools.count(1)
        self._open: dict[str, Session[Tensor, Program]] = {}
        self._lock = threading.Lock()

    def open(
        self, *, client: str | None, ttl_s: float | None
    ) -> Session[Tensor, Program]:
        """A new session with the lease asked for, or the longest there is.

        Raises:
            SessionError: if the lease asked for is no length of time.
        """
        asked = self._ttl_s if ttl_s is None else ttl_s
        if math.isnan(asked) or asked <= 0:
            raise SessionError(f"a lease of {asked} s", hint="ask for more than 0 s")
        granted = min(max(asked, _SHORTEST_TTL_S), self._ttl_s)
        with self._lock:
            session: Session[Tensor, Program] = Session(
                next(self._numbers), client=client, ttl_s=granted, now_s=self._clock()
            )
            self._open[session.key] = session
        return session

    @contextmanager
    def call(
        self, key: str, *, client: str | None
    ) -> Iterator[Session[Tensor, Program]]:
        """The session for the time of one call, whose lease the call renews.

        Raises:
            SessionError: if there is none of that key that this client opened.
        """
        with self._lock:
            session = self._open.get(key)
            if session is None or session.client != client:
                raise SessionError(
                    "the session is unknown: it was closed, its lease lapsed, or the "
                    "server started anew",
                    hint="connect again, and put or make the state anew",
                )
            session.num_calls += 1
        try:
            yield session
        finally:
            with self._lock:
                session.num_calls -= 1
                session.expires_s = self._clock() + session.ttl_s
                closed = session.key not in self._open
            if closed:  # while the call ran: what it added is nobody's
                session.free()

    def close(self, key: str) -> None:
        """Ends a session and frees what it holds."""
        with self._lock:
            session = self._open.pop(key, None)
        if session is not None:
            session.free()

    def lapse(self) -> tuple[Session[Tensor, Program], ...]:
        """Ends the sessions whose lease is over; returns them, freed."""
        with self._lock:
            now_s = self._clock()
            lapsed = tuple(
                session
                for session in self._open.values()
                if session.num_calls == 0 and session.expires_s <= now_s
            )
            for session in lapsed:
                del self._open[session.key]
        for session in lapsed:
            session.free()
        return lapsed

    def close_all(self) -> None:
        for session in self.all():
            self.close(session.key)

    def all(self) -> tuple[Session[Tensor, Program], ...]:
        with self._lock:
            return tuple(self._open.values())
