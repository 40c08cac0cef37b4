"""What a session holds on the server: tensors and loaded programs."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Sharding
from jax.typing import ArrayLike

from tepdist.errors import StateError
from tepdist.program.roles import ArgumentRole, ResultRole
from tepdist.service.sessions import Session
from tepdist.service.tensors import Spec


class Runnable(Protocol):
    """A compiled program."""

    @property
    def argument_shardings(self) -> Sequence[Sharding]: ...

    def put(self, index: int, host_array: ArrayLike) -> jax.Array: ...

    def __call__(self, arguments: Sequence[ArrayLike]) -> tuple[jax.Array, ...]: ...

    def hlo_text(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """A tensor on the server.

    Attributes:
        array: On the devices; in host memory if no step has yet said where.
        spec: What its owner was told.
        made_by: The step it comes from, for people; None if it was put.
    """

    array: np.ndarray | jax.Array
    spec: Spec
    made_by: str | None = None


@dataclass(frozen=True, slots=True)
class StepUnderWay:
    """A step that was started and not yet seen to end.

    Attributes:
        number: Of the program's steps.
        watched: One of its results, which no later step consumes.
        before: Handle of a result to (handle, tensor) of the state that it replaces,
            where that was not donated: what to go back to if the step fails.
    """

    number: int
    watched: jax.Array
    before: Mapping[int, tuple[int, HeldTensor]]


@dataclass(slots=True)
class LoadedProgram:
    """A program of one session, ready to run.

    Attributes:
        name: For people.
        fingerprint: Of program and roles; for an init program None.
        arguments: Role and spec of each.
        results: Role and spec of each.
        plan_json: None for an init program, which is not planned.
        executable: Compiled.
        num_steps: Steps started so far.
        under_way: Steps not yet seen to end.
        consumed: Positions of the arguments that a step consumes.
        replacing: (result, position of the argument it replaces).
        watched_result: The smallest result that no later step consumes.
        seen: For each argument a sharding that needs no moving, to be known again at
            a glance.
    """

    name: str
    fingerprint: str | None
    arguments: tuple[tuple[ArgumentRole, Spec], ...]
    results: tuple[tuple[ResultRole, Spec], ...]
    plan_json: str | None
    executable: Runnable
    num_steps: int = 0
    under_way: deque[StepUnderWay] = field(default_factory=deque)
    consumed: tuple[int, ...] = field(init=False)
    replacing: tuple[tuple[int, int], ...] = field(init=False)
    watched_result: int | None = field(init=False)
    seen: list[Sharding] = field(init=False)

    def __post_init__(self) -> None:
        self.consumed = tuple(
            index for index, (role, _) in enumerate(self.arguments) if role.donated
        )
        positions = {role.name: at for at, (role, _) in enumerate(self.arguments)}
        self.replacing = tuple(
            (result, positions[role.replaces])
            for result, (role, _) in enumerate(self.results)
            if role.replaces is not None
        )
        next_consumed = {result for result, at in self.replacing if at in self.consumed}
        lasting = [
            (spec.bytes_, index)
            for index, (_, spec) in enumerate(self.results)
            if index not in next_consumed
        ]
        self.watched_result = min(lasting)[1] if lasting else None
        self.seen = list(self.executable.argument_shardings)


ClientSession = Session[HeldTensor, LoadedProgram]


def check_spec(role: ArgumentRole, wanted: Spec, got: Spec) -> None:
    """Refuses a tensor of another shape or dtype than the argument.

    Raises:
        StateError: naming the argument.
    """
    if got != wanted:
        raise StateError(
            f"argument {role.name} is {got}; the program was planned for {wanted}",
            where=role.name,
            hint="shapes and dtypes are part of the program: submit it for these",
        )


def bytes_of(session: ClientSession) -> tuple[int, int]:
    """(on all devices, in host memory) of what a session holds [B]."""
    on_devices = in_host = 0
    for _, held in session.tensors.items():
        if isinstance(held.array, np.ndarray):
            in_host += held.array.nbytes
        elif not held.array.is_deleted():
            shard = held.array.sharding.shard_shape(held.array.shape)
            itemsize = held.array.dtype.itemsize
            num_shards = len(held.array.sharding.device_set)
            on_devices += int(np.prod(shard, dtype=np.int64)) * itemsize * num_shards
    return on_devices, in_host
