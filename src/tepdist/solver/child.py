"""Solves in child processes, which end in time whatever the solver does."""

import os
import signal
import socket
import subprocess
import threading
import time
from multiprocessing.connection import Connection

from tepdist import children
from tepdist.solver.integers import Answer, IntegerNetwork

_GRACE_S = 1.0  # from the signal that asks for an answer to the one that kills
_MOST_IDLE = 2
_START = "from tepdist.solver import toulbar; toulbar.serve(int(sys.argv[2]))"

_idle: list["_Child"] = []
_idle_lock = threading.Lock()
os.register_at_fork(after_in_child=_idle.clear)  # they answer the parent


def solve(network: IntegerNetwork, *, time_limit_s: float) -> Answer:
    """The best assignment that was found in time.

    Other threads go on meanwhile. The child may die, of memory above all: then nothing
    was found.

    Args:
        network: What to solve.
        time_limit_s: After which the best so far is returned [s].
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
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*children.command(_START), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # One thread: more only take address space from the solver.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the parent
            )
        self._connection = Connection(ours.detach())

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def solve(self, network: IntegerNetwork, time_limit_s: float) -> Answer | None:
        """The answer; None if the process died or gave none in time."""
        deadline = time.monotonic() + time_limit_s
        try:
            self._connection.send(network)
            if not self._connection.poll(max(deadline - time.monotonic(), 0.0)):
                self._process.send_signal(signal.SIGVTALRM)
                if not self._connection.poll(_GRACE_S):
                    return None
            answer: Answer = self._connection.recv()
        except (EOFError, OSError):
            return None
        return answer

    def kill(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()
