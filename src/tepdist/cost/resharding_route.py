"""How a tensor gets from one sharding to another: which collectives, in what order.

First slices (free, and all that follows moves less), then one permute that puts
devices where their data will be needed, then all-to-alls that move axes between dims,
last all-gathers. Where axes of different sizes trade places, a step may take a part
of an axis. This file knows no links and no times.

Source:
    Shardy, `reshard_to_collectives.cc`: same steps in the same order. We differ in
    that an all-gather of several dims is one step a dim, the last dim first, as XLA
    runs it, and that slices are in the path but not among the steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from tepdist.cost.axis_parts import (
    AxisPart,
    PartSharding,
    common_suffix,
    divide,
    num_shards,
    take,
)
from tepdist.cost.resharding_walk import Step, Walk
from tepdist.sharding import Mesh, Sharding


@dataclass(frozen=True, slots=True)
class Route:
    """A resharding.

    Attributes:
        steps: Its collectives, in order.
        path: The shardings that the tensor passes through, the last its target. A
            compiler that is told each of them runs exactly these steps; told only
            the target it may find worse ones.
    """

    steps: tuple[Step, ...]
    path: tuple[PartSharding, ...]


def shardy_route(
    source: Sharding,
    target: Sharding,
    shape: tuple[int, ...],
    *,
    itemsize: float,
    mesh: Mesh,
) -> Route:
    """The steps and path from one sharding to another of equal parts.

    Args:
        source: As the tensor lies.
        target: As it should lie.
        shape: Of the whole tensor.
        itemsize: Size of one element [B].
        mesh: Of both shardings.

    Returns:
        No steps if the shardings are equal or slicing is enough.
    """
    if source == target:
        return Route((), ())
    walk = Walk(source, target, shape, itemsize=itemsize, mesh=mesh)
    # Sizes that do not divide one another may need a second round, rarely more.
    for _ in range(2):
        _slice(walk)
        if _should_permute(walk):
            _permute(walk)
        _all_to_alls(walk, in_order=True)
        _all_to_alls(walk, in_order=False)
        _all_gathers(walk)
    if not walk.is_done:
        _gather_and_slice(walk)
    return Route(tuple(walk.steps), tuple(walk.path[1:]))


def _slice(walk: Walk) -> None:
    """Shards further where the goal is sharded more, over axes not yet in use."""
    for dim in walk.dims:
        now, goal = num_shards(walk.now[dim]), num_shards(walk.goal[dim])
        walk.room[dim] = goal // math.gcd(now, goal)
    for dim in walk.dims:
        _slice_ahead(walk, dim)
    left_over = [part for dim in walk.dims for part in _slice_in_place(walk, dim)]
    _distribute(walk, lambda _: left_over, at_front=False)
    walk.stop()


def _slice_ahead(walk: Walk, dim: int) -> None:
    """Slices here what an all-to-all will then carry to its dim with the rest.

    So the all-to-all brings all axes in order, and no permute is needed.
    """
    now = walk.now[dim]
    if not now or walk.goal[dim]:
        return
    place = walk.place(now[-1])
    if place is None or walk.now[place[0]]:
        return
    to, position = place
    goal = walk.goal[to]
    added: list[AxisPart] = []
    for part in goal[position + 1 :]:
        if walk.in_use(part):
            break
        added.append(part)
    shared = common_suffix(now, goal[: position + 1])
    out_of_order = any(part in goal for part in now[: len(now) - shared])
    sharded = num_shards(walk.done[dim]) * num_shards(now) * num_shards(added)
    if not added or out_of_order or walk.shape[dim] % sharded:
        return
    walk.room[to] //= num_shards(now[len(now) - shared :]) * num_shards(added)
    now.extend(added)


def _slice_in_place(walk: Walk, dim: int) -> list[AxisPart]:
    """Slices a dim over the axes it should have; returns those that did not fit."""
    now, goal, done = walk.now[dim], walk.goal[dim], walk.done[dim]
    left_over: list[AxisPart] = []
    position = 0
    while position < len(goal):
        part = goal[position]
        if walk.in_use(part):
            position += 1
            continue
        fit = take(part, walk.room[dim])
        if fit is None:
            left_over.append(part)
            position += 1
            continue
        within, rest = fit
        walk.room[dim] //= within.size
        goal[position : position + 1] = [within] if rest is None else [within, rest]
        if rest is not None:
            left_over.append(rest)
        if not now and position == 0:
            done.append(goal.pop(0))
        else:
            now.append(within)
            position += 1
        position += rest is not None
    return left_over


def _distribute(
    walk: Walk, available: Callable[[int], list[AxisPart]], *, at_front: bool
) -> None:
    """Puts available axes into whichever dims have room, first dim first."""
    for dim in walk.dims:
        parts = available(dim)
        insert_at = 0 if at_front else len(walk.now[dim])
        position = 0
        while position < len(parts) and walk.room[dim] > 1:
            fit = take(parts[position], walk.room[dim])
            if fit is None:
                position += 1
                continue
            part = parts.pop(position)
            within, rest = fit
            walk.room[dim] //= within.size
            walk.now[dim].insert(insert_at, within)
            insert_at += 1
            if rest is not None:
                parts.insert(0, rest)
                _cut_goal(walk, part, [within, rest])


def _cut_goal(walk: Walk, part: AxisPart, pieces: list[AxisPart]) -> None:
    place = walk.place(part)
    if place is not None:
        dim, position = place
        walk.goal[dim][position : position + 1] = pieces


def _should_permute(walk: Walk) -> bool:
    """Whether devices must trade places before data can move on."""
    spare_now: AxisPart | None = None
    spare_goal: AxisPart | None = None
    for dim in walk.dims:
        now, goal = walk.now[dim], walk.goal[dim]
        if now and goal and divide(now[0].size, goal[0].size):
            return True
        if _is_out_of_order(walk, dim):
            return True
        for part in goal:
            spare_goal = spare_goal if walk.in_use(part) else part
        for part in now:
            spare_now = spare_now if walk.place(part) else part
    if spare_now is None or spare_goal is None:
        return False
    # An axis to be gathered can be replaced by one to be sliced.
    return divide(spare_now.size, spare_goal.size)


def _is_out_of_order(walk: Walk, dim: int) -> bool:
    """Whether axes of this dim cannot leave it from the back, in their goal's order."""
    before: tuple[int, int] | None = None
    seen: set[int] = set()
    for part in walk.now[dim]:
        place = walk.place(part)
        if place is None:
            # To be gathered, but behind one that has to leave first.
            if before is not None and not walk.goal[dim]:
                return True
        else:
            follows = before == (place[0], place[1] - 1)
            if (place[0] == dim or place[0] in seen) and not follows:
                return True
            seen.add(place[0])
        before = place
    return False


def _permute(walk: Walk) -> None:
    """Replaces the axes of each dim by as many others, of use further on."""
    wanted = {part for goal in walk.goal for part in goal}
    before = [list(now) for now in walk.now]
    num_done = [len(done) for done in walk.done]
    to_come: list[AxisPart] = []
    to_gather: list[list[AxisPart]] = []
    for dim in walk.dims:
        to_gather.append(_permute_in_place(walk, dim, wanted))
        to_come.extend(walk.goal[dim])
    _distribute(walk, lambda _: to_come, at_front=False)
    _distribute(walk, lambda dim: to_gather[dim], at_front=True)
    rest = [part for parts in to_gather for part in parts]
    _distribute(walk, lambda _: rest, at_front=True)
    after = [
        [*done[kept:], *now]
        for done, now, kept in zip(walk.done, walk.now, num_done, strict=True)
    ]
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    moved = dict.fromkeys(part for pair in changed for dim in pair for part in dim)
    walk.add_step("collective_permute", list(moved))
    walk.stop()


def _permute_in_place(walk: Walk, dim: int, wanted: set[AxisPart]) -> list[AxisPart]:
    """Puts the goal's first axes in place; returns those to be gathered later.

    The room left is what other axes must fill. Replaced axes come last, so that the
    others go back to where they were.
    """
    now, goal = walk.now[dim], walk.goal[dim]
    total = walk.room[dim] = num_shards(now)
    while goal and (fit := take(goal[0], walk.room[dim])):
        within, rest = fit
        walk.room[dim] //= within.size
        walk.done[dim].append(within)
        goal[:1] = [] if rest is None else [rest]
    unwanted = [part for part in now if part not in wanted]
    now.clear()
    used = total // walk.room[dim]
    replaced: list[AxisPart] = []
    while unwanted and (fit := take(unwanted[0], used)):
        within, rest = fit
        used //= within.size
        replaced.append(within)
        unwanted[:1] = [] if rest is None else [rest]
    return unwanted + replaced


def _all_to_alls(walk: Walk, *, in_order: bool) -> None:
    """Moves the last axes of each dim to where they belong.

    Args:
        walk: State.
        in_order: Only where they come to their final position at once.
    """
    for dim in walk.dims:
        while _all_to_all(walk, dim, in_order=in_order):
            pass


def _all_to_all(walk: Walk, dim: int, *, in_order: bool) -> bool:
    now = walk.now[dim]
    to: int | None = None
    start = len(now)
    while start > 0:
        place = walk.place(now[start - 1])
        if place is None or place[0] == dim or to not in (None, place[0]):
            break
        to = place[0]
        start -= 1
    if to is None:
        return False
    moved = now[start:]
    if in_order and walk.goal[to][: len(moved)] != moved:
        return False
    walk.add_step("all_to_all", moved, pieces=to)
    del now[start:]
    walk.now[to].extend(moved)
    walk.settle()
    walk.stop()
    return True


def _gather_and_slice(walk: Walk) -> None:
    """Gathers all that is not in place, then slices: possible for any sizes."""
    for dim in reversed(walk.dims):
        gathered = list(walk.now[dim])
        if gathered:
            walk.now[dim].clear()
            walk.add_step("all_gather", gathered, pieces=dim)
    walk.stop()
    for done, goal in zip(walk.done, walk.goal, strict=True):
        done.extend(goal)
        goal.clear()
    walk.stop()


def _all_gathers(walk: Walk) -> None:
    """Gathers what the goal does not have."""
    for dim in reversed(walk.dims):
        now = walk.now[dim]
        start = len(now)
        while start > 0 and walk.place(now[start - 1]) is None:
            start -= 1
        gathered = now[start:]
        if gathered:
            del now[start:]
            walk.add_step("all_gather", gathered, pieces=dim)
            if walk.is_uneven:  # else XLA gathers the next dim with this one's padding
                walk.stop()
    walk.settle()
    walk.stop()
