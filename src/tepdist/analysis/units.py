"""Kernels that a compiler starts as one, and copies that it guards arguments with.

Source:
    XLA's collective combiners (``all_reduce_combiner`` and its kin) and
    ``copy_insertion``.
"""

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from tepdist.analysis.schedule import Kernels, post_order


def ancestors(
    operands: Sequence[Sequence[int]],
    marked: Mapping[int, int],
    order: Iterable[int],
) -> list[int]:
    """For each kernel which marked ones it waits for, itself among them, as bits.

    Args:
        operands: Of each kernel.
        marked: Kernel to its bit's position.
        order: One in which all could run.
    """
    found = [0] * len(operands)
    for at in order:
        bits = 1 << marked[at] if at in marked else 0
        for operand in operands[at]:
            bits |= found[operand]
        found[at] = bits
    return found


def combine(
    kernels: Kernels,
    unit: Sequence[int],
    keys: Mapping[int, Hashable],
    *,
    limit_bytes: int,
) -> tuple[int, ...]:
    """Which kernels start together: for each the first of those that do.

    Kernels of one key that do not wait for one another are combined, in post-order, as
    long as they make no more than a limit together: those that others wait for, and
    those that none waits for.

    Args:
        kernels: Any.
        unit: Of each kernel so far; those with a key are units of their own.
        keys: Of the kernels that may be combined.
        limit_bytes: Of what one combined kernel makes [B].
    """
    order = post_order(kernels)
    small = [at for at in order if at in keys and kernels.bytes_[at] < limit_bytes]
    marked = {at: bit for bit, at in enumerate(small)}
    found = ancestors(kernels.operands, marked, order)
    waits_for = {at: found[at] for at in small}
    unit = list(unit)
    waited_for = 0
    for at in small:
        waited_for |= found[at] & ~(1 << marked[at])
    alike: dict[Hashable, list[int]] = {}
    for at in small:
        alike.setdefault((keys[at], waited_for >> marked[at] & 1), []).append(at)
    for waiting in alike.values():
        while len(waiting) > 1:
            group = _independent(
                kernels, waiting, waits_for, marked=marked, limit_bytes=limit_bytes
            )
            for at in group:
                unit[at] = group[0]
                if at in kernels.ends:
                    unit[kernels.ends[at]] = kernels.ends[group[0]]
            if len(group) > 1:
                _join(group, waits_for, marked)
            waiting = [at for at in waiting if at not in group]
    return tuple(unit)


def _join(
    group: Sequence[int], waits_for: dict[int, int], marked: Mapping[int, int]
) -> None:
    """Makes what waits for one of a group wait for all that the group waits for."""
    members = sum(1 << marked[at] for at in group)
    above = members
    for at in group:
        above |= waits_for[at]
    for at, bits in waits_for.items():
        if bits & members:
            waits_for[at] = bits | above


def _independent(
    kernels: Kernels,
    waiting: Sequence[int],
    waits_for: Mapping[int, int],
    *,
    marked: Mapping[int, int],
    limit_bytes: int,
) -> list[int]:
    """The first of some kernels and those after it that may run with it."""
    first, *rest = waiting
    group, size, members = [first], kernels.bytes_[first], 1 << marked[first]
    above = waits_for[first]
    for at in rest:
        fits = size + kernels.bytes_[at] <= limit_bytes
        if fits and not waits_for[at] & members and not above >> marked[at] & 1:
            group.append(at)
            members |= 1 << marked[at]
            above |= waits_for[at]
            size += kernels.bytes_[at]
    return group


def contract(kernels: Kernels, unit: Sequence[int]) -> list[list[int]]:
    """The units that each unit reads; empty for kernels that another stands for."""
    if all(at == first for at, first in enumerate(unit)):
        return [list(read) for read in kernels.operands]
    operands: list[dict[int, None]] = [{} for _ in unit]
    for at in post_order(kernels):
        own = unit[at]
        read = kernels.operands[at]
        operands[own].update((unit[op], None) for op in read if unit[op] != own)
    return [list(read) for read in operands]


def order_units(
    kernels: Kernels, unit: Sequence[int], make_order: Callable[[Kernels], list[int]]
) -> list[int]:
    """An order of kernels in which those of a unit follow one another."""
    members: dict[int, list[int]] = {}
    for at, first in enumerate(unit):
        members.setdefault(first, []).append(at)
    number = {first: at for at, first in enumerate(members)}
    contracted = contract(kernels, unit)
    operands = [tuple(number[op] for op in contracted[first]) for first in members]
    users: list[list[int]] = [[] for _ in operands]
    for at, read in enumerate(operands):
        for operand in read:
            users[operand].append(at)

    def total(sizes: Sequence[int]) -> tuple[int, ...]:
        return tuple(sum(sizes[at] for at in group) for group in members.values())

    order = make_order(
        Kernels(
            operands=tuple(operands),
            users=tuple(map(tuple, users)),
            bytes_=total(kernels.bytes_),
            is_given=tuple(kernels.is_given[first] for first in members),
            roots=tuple(dict.fromkeys(number[unit[at]] for at in kernels.roots)),
            inner_bytes=total(kernels.inner_bytes),
            reusable=tuple(
                tuple(number[unit[op]] for op in kernels.reusable[group[0]])
                if len(group) == 1
                else ()
                for group in members.values()
            ),
            seconds=tuple(_together_s(kernels, group) for group in members.values()),
            ends={
                number[unit[start]]: number[unit[end]]
                for start, end in kernels.ends.items()
            },
            alone=frozenset(number[unit[at]] for at in kernels.alone),
            results={
                own: tuple(
                    tuple({number[unit[user]] for user in kernels.users[at]} - {own})
                    for at in group
                )
                for own, (first, group) in enumerate(members.items())
                if first not in kernels.ends
                and (len(group) > 1 or first in kernels.bundled)
            },
        )
    )
    groups = list(members.values())
    return [at for group in order for at in groups[group]]


def _chained_bytes(kernels: Kernels, copies: Sequence[int]) -> list[int]:
    """What copies take beyond the buffers of the arguments that they are of [B]."""
    sizes = [kernels.bytes_[at] for at in copies]
    if sizes:
        largest = sizes.index(max(sizes))
        sizes = [size if at == largest else 0 for at, size in enumerate(sizes)]
    return sizes


def _together_s(kernels: Kernels, group: Sequence[int]) -> float:
    """Time of kernels that start as one: what the shortest takes to start, once."""
    times = [kernels.seconds[at] for at in group]
    return sum(times) - (len(times) - 1) * min(times)


def guard(
    kernels: Kernels, unit: Sequence[int], updates: Mapping[int, int]
) -> tuple[Kernels, tuple[int, ...]]:
    """Adds a copy of each argument that may be overwritten before it was last read.

    From its copy to its update an argument's own buffer is free: the next smaller copy
    lies there, so that only the largest takes memory.

    Args:
        kernels: Any.
        unit: Of each kernel.
        updates: Argument to the kernel that writes over it.

    Returns:
        Kernels and units, the copies last.
    """
    contracted = contract(kernels, unit)
    marked: dict[int, int] = {}
    for argument in updates:
        for at in kernels.users[argument]:
            marked.setdefault(unit[at], len(marked))
    waits_for = ancestors(contracted, marked, topological(contracted))
    operands = [list(read) for read in kernels.operands]
    copies: list[int] = []
    for argument, update in updates.items():
        before = waits_for[unit[update]]
        readers = [at for at in kernels.users[argument] if at != update]
        if all(before >> marked[unit[at]] & 1 for at in readers):
            continue
        copy = len(operands) + len(copies)
        copies.append(argument)
        for at in kernels.users[argument]:
            operands[at] = [copy if op == argument else op for op in operands[at]]
    operands += [[argument] for argument in copies]
    users: list[list[int]] = [[] for _ in operands]
    for at, read in enumerate(operands):
        for operand in read:
            users[operand].append(at)
    count = len(copies)
    guarded = dataclasses.replace(
        kernels,
        operands=tuple(map(tuple, operands)),
        users=tuple(map(tuple, users)),
        bytes_=(*kernels.bytes_, *_chained_bytes(kernels, copies)),
        is_given=(*kernels.is_given, *((False,) * count)),
        inner_bytes=(*kernels.inner_bytes, *((0,) * count)),
        reusable=(*kernels.reusable, *(((),) * count)),
        seconds=(*kernels.seconds, *((0.0,) * count)),
    )
    return guarded, (*unit, *range(len(unit), len(operands)))


def merge(
    kernels: Kernels, pairs: Iterable[tuple[int, int]]
) -> tuple[Kernels, tuple[int, ...]]:
    """Makes one kernel each of pairs of kernels that need nothing in between.

    Args:
        kernels: Any.
        pairs: Kernels that are made one if they may be, each at most once; the second
            may read the first.

    Returns:
        Kernels of which both of a pair read what either reads, and units.
    """
    pairs = [(one, two) for one, two in pairs if one != two]
    if not pairs:
        return kernels, tuple(range(len(kernels.operands)))
    read = (kernels.operands[two] for two in dict.fromkeys(two for _, two in pairs))
    concerned = itertools.chain(*pairs, *read)
    marked = {at: bit for bit, at in enumerate(dict.fromkeys(concerned))}
    found = ancestors(kernels.operands, marked, range(len(kernels.operands)))
    waits_for = {at: found[at] for at in marked}
    operands, users = list(kernels.operands), list(kernels.users)
    merged: dict[int, int] = {}
    for one, two in pairs:
        if one in merged or two in merged or waits_for[one] >> marked[two] & 1:
            continue
        between = (op for op in kernels.operands[two] if op != one)
        if any(waits_for[operand] >> marked[one] & 1 for operand in between):
            continue
        merged[one] = merged[two] = min(one, two)
        _join((one, two), waits_for, marked)
        both = dict.fromkeys((*operands[one], *operands[two]))
        for at in (one, two):
            for operand in both.keys() - {one} - set(operands[at]):
                users[operand] = (*users[operand], at)
                operands[at] = (*operands[at], operand)
    return dataclasses.replace(
        kernels, operands=tuple(operands), users=tuple(users)
    ), tuple(merged.get(at, at) for at in range(len(operands)))


def topological(operands: Sequence[Sequence[int]]) -> list[int]:
    missing = [len(set(read)) for read in operands]
    users: list[list[int]] = [[] for _ in operands]
    for at, read in enumerate(operands):
        for operand in set(read):
            users[operand].append(at)
    order = [at for at, count in enumerate(missing) if count == 0]
    for at in order:
        for user in users[at]:
            missing[user] -= 1
            if missing[user] == 0:
                order.append(user)
    return order
