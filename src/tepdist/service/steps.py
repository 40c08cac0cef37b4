"""Steps and fetches of a session's tensors.

Steps of all sessions are dispatched one after the other, in one order for every
device.
"""

import contextlib
import threading
import weakref
from collections.abc import Sequence

import jax
import numpy as np

from tepdist.errors import StateError, StepFailed
from tepdist.service.failures import (
    drop_poisoned,
    first_line,
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

    def step(
        self,
        session: ClientSession,
        program: LoadedProgram,
        arguments: Sequence[int | np.ndarray],
    ) -> tuple[int, list[int]]:
        """Starts one step.

        Args:
            session: Whose tensors they are.
            program: Of that session.
            arguments: Handle or host array of each.

        Returns:
            (number of the step, handles of its results).

        Raises:
            StepFailed: if an earlier step failed, or this one cannot start.
            StateError: if an argument is of another shape or dtype, or gone.
        """
        with session.lock, jax.enable_x64():
            raise_failures(session)
            _check_arguments(session, program, arguments)
            placed = [
                _place(session, program, position=position, argument=argument)
                for position, argument in enumerate(arguments)
            ]
            number = program.num_steps + 1
            label = f"step {number} of {program.name!r}"
            try:
                results = self._start(program.executable, placed)
            except jax.errors.JaxRuntimeError as error:
                drop_poisoned(session)
                raise step_failed(label, error, program) from error
            program.num_steps = number
            session.tensors.remove(_consumed(program, arguments))
            handles = [
                session.tensors.add(HeldTensor(array, spec, label))
                for array, (_, spec) in zip(results, program.results, strict=True)
            ]
            if program.watched_result is not None:
                before = {
                    handles[result]: (argument, session.tensors.get(argument))
                    for result, position in program.kept
                    if not isinstance(argument := arguments[position], np.ndarray)
                }
                watched = results[program.watched_result]
                program.under_way.append(StepUnderWay(number, watched, before))
            return number, handles

    def _start(
        self, executable: Runnable, arguments: Sequence[np.ndarray | jax.Array]
    ) -> tuple[jax.Array, ...]:
        with self._lock:
            if self._latest is not None and self._latest[0]() is not executable:
                _wait(self._latest[1])
            results = executable(arguments)
            smallest = min(results, key=lambda array: array.nbytes, default=None)
            if smallest is not None and _is_on_virtual_devices(smallest):
                self._latest = weakref.ref(executable), smallest
            return results


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
        with session.lock:
            raise_failures(session)
            drop_poisoned(session)
        raise StepFailed(
            f"{held.made_by or 'the transfer'} failed: {first_line(error)}",
            hint="go on from an earlier state, or make one anew",
        ) from error
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


def _place(
    session: ClientSession,
    program: LoadedProgram,
    *,
    position: int,
    argument: int | np.ndarray,
) -> np.ndarray | jax.Array:
    """One argument as the executable may take it.

    What came with the step is left to the executable's own dispatch to place.
    """
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


def _check_arguments(
    session: ClientSession,
    program: LoadedProgram,
    arguments: Sequence[int | np.ndarray],
) -> None:
    """Refuses a step before anything of it is done."""
    if len(arguments) != len(program.arguments):
        raise StateError(
            f"{program.name!r} takes {len(program.arguments)} arguments; "
            f"{len(arguments)} came"
        )
    first_use: dict[int, str] = {}
    donated = set(_consumed(program, arguments))
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


def _consumed(
    program: LoadedProgram, arguments: Sequence[int | np.ndarray]
) -> list[int]:
    return [
        argument
        for position in program.consumed
        if not isinstance(argument := arguments[position], np.ndarray)
    ]
