"""Steps and fetches of a session's tensors.

Steps of all sessions are dispatched one after the other, in one order for every
device.
"""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from tepdist.errors import SessionError, StateError
from tepdist.service.failures import (
    drop_poisoned,
    raise_failures,
    step_failed,
)
from tepdist.service.held import (
    ClientSession,
    HeldTensor,
    LoadedProgram,
    Runnable,
    StepUnderWay,
    check_spec,
)
from tepdist.service.tensors import Spec, whole


@dataclass(frozen=True, slots=True)
class Step:
    """A step that a client asks for.

    Attributes:
        session: Whose tensors they are.
        program: Of that session.
        arguments: Handle or host array of each.
        is_wanted: Whether the client still waits for the handles of the results.
    """

    session: ClientSession
    program: LoadedProgram
    arguments: Sequence[int | np.ndarray]
    is_wanted: Callable[[], bool]

    @property
    def label(self) -> str:
        """What it is called before it has started."""
        return f"step {self.program.num_steps + 1} of {self.program.name!r}"

    def handles_at(self, positions: Iterable[int]) -> list[int]:
        """Handles among the arguments at these positions."""
        return [
            argument
            for position in positions
            if not isinstance(argument := self.arguments[position], np.ndarray)
        ]


class DeviceQueue:
    """The one order in which steps of all sessions reach the devices.

    Virtual CPU devices run one program at a time. They share a pool of as many threads
    as devices, and a collective holds the threads that wait in it. With two programs
    that do not depend on each other under way, seven of eight once waited until XLA
    ended the process (two jitted steps taking turns on a loaded machine of 2 cores, jax
    0.10.2, 2026-11).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Executable, and a result of its latest step; of virtual devices only.
        self._latest: tuple[weakref.ref[Runnable], jax.Array] | None = None

    def run(self, step: Step) -> tuple[int, list[int]]:
        """Starts one step.

        Returns:
            (number of the step, handles of its results).

        Raises:
            StepFailed: if an earlier step failed, or this one cannot start.
            StateError: if an argument is of another shape or dtype, or gone.
            SessionError: if the client waits no more.
        """
        session, program = step.session, step.program
        with session.lock, jax.enable_x64():
            raise_failures(session)
            _check_arguments(step)
            label = step.label
            try:
                arguments = [_place(step, at) for at in range(len(step.arguments))]
                results = self._start(step, arguments)
            except jax.errors.JaxRuntimeError as error:
                drop_poisoned(session, f"{label} failed")
                consumed = step.handles_at(program.consumed)
                is_lost = any(handle not in session.tensors for handle in consumed)
                raise step_failed(label, error, is_lost=is_lost) from error
            program.num_steps += 1
            held = [
                HeldTensor(array, spec, label)
                for array, (_, spec) in zip(results, program.results, strict=True)
            ]
            if not step.is_wanted():
                _keep_state(step, held)
                raise SessionError(f"{label} was under way when its call was cancelled")
            handles = list(map(session.tensors.add, held))
            _watch(step, results, handles)
            session.tensors.remove(step.handles_at(program.consumed))
            return program.num_steps, handles

    def _start(
        self, step: Step, arguments: Sequence[np.ndarray | jax.Array]
    ) -> tuple[jax.Array, ...]:
        executable = step.program.executable
        with self._lock:
            if self._latest is not None and self._latest[0]() is not executable:
                _wait(self._latest[1])
            if not step.is_wanted():
                raise SessionError(f"the call of {step.label} was cancelled")
            results = executable(arguments)
            smallest = min(results, key=lambda array: array.nbytes, default=None)
            if smallest is not None and _is_on_virtual_devices(smallest):
                self._latest = weakref.ref(executable), smallest
            return results


def _watch(step: Step, results: Sequence[jax.Array], handles: Sequence[int]) -> None:
    """Keeps what is needed to find, and to make good, a failure under way."""
    program, tensors = step.program, step.session.tensors
    if program.watched_result is None:
        return
    before = {
        handles[result]: (argument, tensors.get(argument))
        for result, position in program.replacing
        if position not in program.consumed
        for argument in step.handles_at([position])
    }
    watched = results[program.watched_result]
    program.under_way.append(StepUnderWay(program.num_steps, watched, before))


def _keep_state(step: Step, results: Sequence[HeldTensor]) -> None:
    """Lets the handles of consumed state stand for what replaced it.

    Nobody knows the handles of the results. Where a step consumes only a part of the
    state that it replaces, that part is lost: it would be a step ahead of the rest.
    """
    program, tensors = step.program, step.session.tensors
    replaced = {position: result for result, position in program.replacing}
    is_whole = replaced.keys() <= set(program.consumed)
    for position in program.consumed:
        for handle in step.handles_at([position]):
            if is_whole and position in replaced:
                tensors.replace(handle, results[replaced[position]])
            else:
                tensors.lose(handle, "the call of the step that took it was cancelled")


def _is_on_virtual_devices(array: jax.Array) -> bool:
    device: jax.Device = next(iter(array.sharding.device_set))
    return array.sharding.num_devices > 1 and device.platform == "cpu"


def _wait(array: jax.Array) -> None:
    """Waits on all devices of this; whether it came to anything is told elsewhere."""
    # Failed, or consumed by a later step, which then was the latest.
    with contextlib.suppress(RuntimeError):
        array.block_until_ready()


def ready(session: ClientSession, handle: int) -> HeldTensor:
    """A tensor, once the step that makes it has ended.

    Raises:
        StepFailed: if that step, or an earlier one, failed.
        StateConsumed: if the tensor is gone.
    """
    with session.lock:
        raise_failures(session)
        held = session.tensors.get(handle)
    if isinstance(held.array, np.ndarray):
        return held
    try:
        held.array.block_until_ready()
    except jax.errors.JaxRuntimeError as error:
        label = held.made_by or "the transfer"
        with session.lock:
            raise_failures(session)
            drop_poisoned(session, f"{label} failed")
        raise step_failed(label, error, is_lost=True) from error
    except RuntimeError:  # a step consumed it meanwhile
        session.tensors.get(handle)
        raise
    return held


def fetch(session: ClientSession, handle: int) -> np.ndarray:
    """A tensor in host memory, once the step that makes it has ended.

    Raises:
        StepFailed: if that step, or an earlier one, failed.
        StateConsumed: if the tensor is gone.
    """
    held = ready(session, handle)
    try:
        return whole(held.array)
    except RuntimeError:  # a step consumed it while it was being read
        session.tensors.get(handle)
        raise


def _place(step: Step, position: int) -> np.ndarray | jax.Array:
    """One argument as the executable may take it.

    What came with the step is left to the executable's own dispatch to place.
    """
    session, program = step.session, step.program
    argument = step.arguments[position]
    if isinstance(argument, np.ndarray):
        is_consumed = position in program.consumed
        return program.executable.put(position, argument) if is_consumed else argument
    held = session.tensors.get(argument)
    if isinstance(held.array, np.ndarray):
        array = program.executable.put(position, held.array)
        session.tensors.replace(argument, HeldTensor(array, held.spec))
        return array
    sharding = held.array.sharding
    if sharding is program.seen[position]:
        return held.array
    wanted = program.executable.argument_shardings[position]
    if sharding.is_equivalent_to(wanted, held.array.ndim):
        program.seen[position] = sharding
        return held.array
    moved: jax.Array = jax.device_put(held.array, wanted)
    return moved


def _check_arguments(step: Step) -> None:
    """Refuses a step before anything of it is done."""
    session, program, arguments = step.session, step.program, step.arguments
    if len(arguments) != len(program.arguments):
        raise StateError(
            f"{program.name!r} takes {len(program.arguments)} arguments; "
            f"{len(arguments)} came"
        )
    first_use: dict[int, str] = {}
    donated = set(step.handles_at(program.consumed))
    for (role, spec), argument in zip(program.arguments, arguments, strict=True):
        if isinstance(argument, np.ndarray):
            check_spec(role, spec, Spec.of(argument))
            continue
        check_spec(role, spec, session.tensors.get(argument).spec)
        if argument in donated and argument in first_use:
            raise StateError(
                f"one tensor is passed for {first_use[argument]} and {role.name}, and "
                "the step consumes it",
                where=role.name,
                hint="put or make two tensors",
            )
        first_use[argument] = role.name
