"""Where a resharding has got to, and the steps it took."""

import math
from dataclasses import dataclass

from tepdist.cost.axis_parts import AxisPart, PartSharding, joined, num_shards
from tepdist.sharding import Mesh, Sharding


@dataclass(frozen=True, slots=True)
class Step:
    """One collective of a resharding.

    Attributes:
        kind: ``all_gather``, ``all_to_all`` or ``collective_permute``.
        parts: Axes, or parts of axes, that it runs over.
        bytes_: Payload: the gathered tensor for an all-gather, else the local
            operand [B].
    """

    kind: str
    parts: tuple[AxisPart, ...]
    bytes_: int

    @property
    def mesh_axes(self) -> tuple[str, ...]:
        """Names of the axes, each once."""
        return tuple(dict.fromkeys(part.axis for part in self.parts))


class Walk:
    """Where a resharding has got to.

    A dim is now sharded over ``done + now``; it should be over ``done + goal``.

    Attributes:
        done: Per dim, axes that are where they should be.
        now: Per dim, axes that are still to be moved or gathered.
        goal: Per dim, axes that are still to come.
        room: Per dim, how much further it may be sharded in the step under way.
        is_uneven: Whether the source or the target has unequal parts.
        steps: So far.
        path: So far, the source first.
    """

    def __init__(
        self,
        source: Sharding,
        target: Sharding,
        shape: tuple[int, ...],
        *,
        itemsize: float,
        mesh: Mesh,
    ) -> None:
        self.shape = shape
        self.itemsize = itemsize
        self.dims = range(len(shape))
        self.done: list[list[AxisPart]] = [[] for _ in shape]
        self.now = whole_parts(source, mesh)
        self.goal = whole_parts(target, mesh)
        self.room = [1 for _ in shape]
        self.is_uneven = any(
            sharding.uneven_dims(shape, mesh) for sharding in (source, target)
        )
        self.steps: list[Step] = []
        self.path: list[PartSharding] = []
        self.stop()
        self.settle()

    @property
    def is_done(self) -> bool:
        return not any(self.now) and not any(self.goal)

    def settle(self) -> None:
        """Counts what has come to its place as done."""
        for done, now, goal in zip(self.done, self.now, self.goal, strict=True):
            while now and goal and now[0] == goal[0]:
                done.append(now.pop(0))
                del goal[0]

    def in_use(self, part: AxisPart) -> bool:
        return any(part in now for now in self.now)

    def place(self, part: AxisPart) -> tuple[int, int] | None:
        """Dim and position where the goal has this part."""
        for dim, goal in enumerate(self.goal):
            if part in goal:
                return dim, goal.index(part)
        return None

    def stop(self) -> None:
        """Adds the present sharding to the path, if it is a new one."""
        present = tuple(
            joined([*done, *now]) for done, now in zip(self.done, self.now, strict=True)
        )
        if self.path[-1:] != [present]:
            self.path.append(present)

    def add_step(
        self, kind: str, parts: list[AxisPart], *, pieces: int | None = None
    ) -> None:
        """Adds a step that ends in the present state, or does not change its size.

        Args:
            kind: As in `Step`.
            parts: It runs over.
            pieces: Dim that is moved in a piece of equal size for each device; None if
                it moves as it lies.
        """
        local = 1
        for dim, extent in enumerate(self.shape):
            shards = num_shards(self.done[dim]) * num_shards(self.now[dim])
            count = num_shards(parts) if dim == pieces else 1
            local *= -(-extent // (shards * count)) * count
        self.steps.append(Step(kind, tuple(parts), math.ceil(local * self.itemsize)))


def whole_parts(sharding: Sharding, mesh: Mesh) -> list[list[AxisPart]]:
    """Per dim its axes; those of size 1 cut nothing."""
    sizes = dict(mesh.axes)
    return [
        [AxisPart(axis, 1, sizes[axis]) for axis in dim if sizes[axis] > 1]
        for dim in sharding.dims
    ]
