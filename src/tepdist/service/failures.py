"""Steps that fail while under way: found late, told with their number.

A step returns before it has run. What it computes is watched through one of its
results that no later step consumes.

State that a step was not allowed to overwrite is kept until the step has ended well;
if it fails, the handles of the state that it would have made stand for that. Donated
state cannot be kept: the runtime gives its memory to the step when it accepts it, and
not back when there is then too little for the rest (tried on CPU, jax 0.10.2).
"""

from collections.abc import Mapping

import jax
import numpy as np

from tepdist.errors import StepFailed
from tepdist.service.held import ClientSession, HeldTensor


def raise_failures(session: ClientSession) -> None:
    """Raises the first failure of steps that have ended since the last look."""
    for _, program in session.programs.items():
        while program.under_way and _has_ended(program.under_way[0].watched):
            step = program.under_way[0]
            try:
                if not step.watched.is_deleted():
                    step.watched.block_until_ready()
            except jax.errors.JaxRuntimeError as error:
                label = f"step {step.number} of {program.name!r}"
                drop_poisoned(session, f"{label} failed")
                is_lost = bool(program.consumed)
                raise step_failed(label, error, is_lost=is_lost) from error
            program.under_way.popleft()


def _has_ended(array: jax.Array) -> bool:
    if array.is_deleted():
        return True
    is_ready: bool = array.is_ready()  # type: ignore[attr-defined]
    return is_ready


def drop_poisoned(session: ClientSession, why: str) -> None:
    """Waits for the session's tensors; those that a failure took are let go.

    State goes back to the last good step's, where that was kept.

    Args:
        session: Whose.
        why: What who asks for a lost one is told.
    """
    before: dict[int, tuple[int, HeldTensor]] = {}
    for _, program in session.programs.items():
        for step in program.under_way:
            before.update(step.before)
        program.under_way.clear()
    for handle, held in session.tensors.items():
        if _is_lost(held):
            good = _last_good(handle, before)
            if good is None:
                session.tensors.lose(handle, why)
            else:
                session.tensors.replace(handle, good)


def _last_good(
    handle: int, before: Mapping[int, tuple[int, HeldTensor]]
) -> HeldTensor | None:
    """The latest state before this one that was computed; None if none was kept."""
    while handle in before:
        handle, held = before[handle]
        if not _is_lost(held):
            return held
    return None


def _is_lost(held: HeldTensor) -> bool:
    """Whether a failure took it, or a donation that came to nothing; waits for it."""
    try:
        if not isinstance(held.array, np.ndarray):
            held.array.block_until_ready()
    except RuntimeError:
        return True
    return False


def step_failed(label: str, error: Exception, *, is_lost: bool) -> StepFailed:
    """The error to raise for a step.

    Args:
        label: Which step.
        error: What the runtime says.
        is_lost: Whether state went into it that does not come back.
    """
    hint = (
        "the state it consumed is lost: put or make it anew; donate=False keeps it"
        if is_lost
        else "the state is that of the last good step: go on from there"
    )
    return StepFailed(f"{label} failed: {first_line(error)}", hint=hint)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
