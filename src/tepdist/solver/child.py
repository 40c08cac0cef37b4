"""Solves in child processes, which end in time whatever the solver does."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection

from tepdist import children
from tepdist.errors import TepdistError
from tepdist.solver.integers import READY, Answer, IntegerNetwork

_START_S = 60.0  # a loaded machine takes its time
_GRACE_S = 1.0  # from the signal that asks for an answer to the one that kills
_MOST_IDLE = 2
_START = "from tepdist.solver import toulbar; toulbar.serve(int(sys.argv[2]))"

_idle: list["_Child"] = []
_idle_lock = threading.Lock()


def _forget() -> None:
    """What a fork of this process does: the children answer the parent."""
    for child in _idle:
        child.forget()
    _idle.clear()


os.register_at_fork(after_in_child=_forget)


def solve(network: IntegerNetwork, *, time_limit_s: float) -> Answer:
    """The best assignment that was found in time.

    Other threads go on meanwhile. The child may die, of memory above all: then nothing
    was found.

    Args:
        network: What to solve.
        time_limit_s: After which the best so far is returned [s].

    Raises:
        TepdistError: if no child can be started.
    """
    child = _take()
    try:
        answer = child.solve(network, time_limit_s)
    except BaseException:
        child.kill()
        raise
    if answer is None:
        child.kill()
        return Answer(None, 0.0, is_complete=False)
    if answer.is_complete:
        _give_back(child)
    else:
        child.kill()  # its memory goes with it
    return answer


def prepare() -> None:
    """Starts a child, which is ready by the time there is something to solve."""
    _give_back(_take())


def _take() -> "_Child":
    with _idle_lock:
        while _idle:
            child = _idle.pop()
            if child.is_alive():
                return child
            child.kill()
    return _Child()


def _give_back(child: "_Child") -> None:
    with _idle_lock:
        if len(_idle) < _MOST_IDLE:
            _idle.append(child)
            return
    child.kill()


class _Child:
    """A process that solves one network at a time; ends when this one does."""

    def __init__(self) -> None:
        ours, theirs = (_above_standard(end) for end in socket.socketpair())
        try:
            self._process = subprocess.Popen(
                [*children.command(_START), str(theirs)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs],
                # One thread: more only take address space from the solver.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the parent
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self._connection = Connection(ours)
        self._is_ready = False

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def solve(self, network: IntegerNetwork, time_limit_s: float) -> Answer | None:
        """The answer; None if the process died or gave none in time."""
        self._wait_until_ready()
        deadline = time.monotonic() + time_limit_s
        try:
            self._connection.send((network, time_limit_s))
            if not self._connection.poll(max(deadline - time.monotonic(), 0.0)):
                self._process.send_signal(signal.SIGVTALRM)
                if not self._connection.poll(_GRACE_S):
                    return None
            answer: Answer = self._connection.recv()
        except (EOFError, OSError):
            return None
        return answer

    def _wait_until_ready(self) -> None:
        if self._is_ready:
            return
        try:
            is_up = self._connection.poll(_START_S)
            self._is_ready = is_up and self._connection.recv() == READY
        except (EOFError, OSError):
            pass
        if not self._is_ready:
            raise TepdistError(
                "the solver's child process does not start",
                where=sys.executable,
                hint="can this Python import pytoulbar2? O1 plans without the solver",
            )

    def forget(self) -> None:
        """Leaves the process to whose child it is."""
        self._connection.close()
        self._process.returncode = 0

    def kill(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


def _above_standard(end: socket.socket) -> int:
    """A descriptor that the child's standard ones do not take the place of."""
    with end:
        return fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
