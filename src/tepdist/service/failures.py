"""Steps that fail while under way: found late, told with their number.

A step returns before it has run. What it computes is watched through one of its
results that no later step consumes.
"""

import jax
import numpy as np

from tepdist.errors import StepFailed
from tepdist.service.held import ClientSession, LoadedProgram


def raise_failures(session: ClientSession) -> None:
    """Raises the first failure of steps that have ended since the last look."""
    for _, program in session.programs.items():
        while program.under_way and _has_ended(program.under_way[0][1]):
            number, array = program.under_way.popleft()
            if array.is_deleted():
                continue
            try:
                array.block_until_ready()
            except jax.errors.JaxRuntimeError as error:
                drop_poisoned(session)
                label = f"step {number} of {program.name!r}"
                raise step_failed(label, error, program) from error


def _has_ended(array: jax.Array) -> bool:
    if array.is_deleted():
        return True
    is_ready: bool = array.is_ready()  # type: ignore[attr-defined]
    return is_ready


def drop_poisoned(session: ClientSession) -> None:
    """Waits for the session's tensors; those that a failure took are let go."""
    for handle, held in session.tensors.items():
        if isinstance(held.array, np.ndarray):
            continue
        try:
            held.array.block_until_ready()
        except RuntimeError:  # failed, or deleted by a donation that came to nothing
            session.tensors.remove([handle])
    for _, program in session.programs.items():
        program.under_way.clear()


def step_failed(label: str, error: Exception, program: LoadedProgram) -> StepFailed:
    donates = any(role.donated for role, _ in program.arguments)
    kept = (
        "what it consumed is lost: go on from another state, or make one anew"
        if donates
        else "the state that went into it is still there: go on from that"
    )
    return StepFailed(f"{label} failed: {first_line(error)}", hint=kept)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
