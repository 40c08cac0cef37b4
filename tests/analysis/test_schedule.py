"""Orders of kernels, and kernels that start together: laws on random graphs."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepdist.analysis.hiding import hide_latency, start_early
from tepdist.analysis.schedule import (
    Kernels,
    breadth_first,
    depth_first,
    greedy,
    least_memory,
    peak_bytes,
    post_order,
)
from tepdist.analysis.units import combine, contract, guard, merge, order_units

ORDERS = (breadth_first, depth_first, greedy, post_order, least_memory)


@st.composite
def graphs(draw, most: int = 9) -> Kernels:
    """Kernels that read earlier ones; the first few may be arguments."""
    count = draw(st.integers(1, most))
    num_given = draw(st.integers(0, count))
    operands = [
        ()
        if at < num_given
        else tuple(sorted(draw(st.sets(st.integers(0, at - 1), max_size=3))))
        if at
        else ()
        for at in range(count)
    ]
    users = [
        tuple(at for at, read in enumerate(operands) if operand in read)
        for operand in range(count)
    ]
    sizes = st.integers(0, 8)
    return Kernels(
        operands=tuple(operands),
        users=tuple(users),
        bytes_=tuple(draw(sizes) for _ in range(count)),
        is_given=tuple(at < num_given for at in range(count)),
        roots=(count - 1,),
        inner_bytes=tuple(draw(sizes) for _ in range(count)),
        reusable=tuple(operands),
        seconds=(1.0,) * count,
        ends={},
    )


@st.composite
def graphs_with_collectives(draw) -> Kernels:
    """The same, where some kernels start what another ends: others read the end."""
    kernels = draw(graphs())
    starts = [
        at
        for at, is_given in enumerate(kernels.is_given)
        if not is_given and draw(st.booleans())
    ]
    number: list[int] = []
    ends: dict[int, int] = {}
    operands: list[tuple[int, ...]] = []
    for at, read in enumerate(kernels.operands):
        operands.append(tuple(number[operand] for operand in read))
        if at in starts:
            ends[len(operands) - 1] = len(operands)
            operands.append((len(operands) - 1,))
        number.append(len(operands) - 1)
    count = len(operands)
    return Kernels(
        operands=tuple(operands),
        users=tuple(
            tuple(at for at, read in enumerate(operands) if operand in read)
            for operand in range(count)
        ),
        bytes_=tuple(draw(st.integers(0, 8)) for _ in range(count)),
        is_given=tuple(
            at in number and kernels.is_given[number.index(at)] for at in range(count)
        ),
        roots=(count - 1,),
        inner_bytes=(0,) * count,
        reusable=((),) * count,
        seconds=tuple(float(draw(st.integers(0, 3))) for _ in range(count)),
        ends=ends,
        alone=frozenset(
            at
            for at, is_given in zip(number, kernels.is_given, strict=True)
            if at not in ends.values() and not is_given and draw(st.booleans())
        ),
        bundled=frozenset(at for at in number if draw(st.booleans())),
    )


def is_order(order, operands) -> bool:
    place = {at: position for position, at in enumerate(order)}
    return sorted(order) == list(range(len(operands))) and all(
        place[operand] < place[at] for at in place for operand in operands[at]
    )


def direct_peak(kernels: Kernels, order) -> int:
    """Lifetimes from the kernel to its last reader, added up one by one."""
    place = {at: position for position, at in enumerate(order)}
    totals = []
    for now in range(len(order)):
        held = kernels.inner_bytes[order[now]] * (not kernels.is_given[order[now]])
        for at in order:
            last = max((place[user] for user in kernels.users[at]), default=place[at])
            last = len(order) if at in kernels.roots else last
            if not kernels.is_given[at] and place[at] <= now <= last:
                held += kernels.bytes_[at]
        totals.append(0 if kernels.is_given[order[now]] else held)
    return max(totals)


@given(graphs())
def test_every_order_runs_operands_first(kernels):
    for make in ORDERS:
        assert is_order(make(kernels), kernels.operands)


@given(graphs())
def test_the_peak_is_what_lifetimes_add_up_to(kernels):
    for make in ORDERS:
        order = make(kernels)
        assert peak_bytes(kernels, order) == direct_peak(kernels, order)
        assert peak_bytes(kernels, order, reuses=True) <= peak_bytes(kernels, order)


@given(graphs())
def test_the_least_of_three_is_no_more_than_each(kernels):
    least = peak_bytes(kernels, least_memory(kernels))
    for make in (greedy, depth_first, post_order):
        assert least <= peak_bytes(kernels, make(kernels))


@given(graphs(most=6))
def test_no_order_needs_less_than_one_kernel_does(kernels):
    for order in itertools.permutations(range(len(kernels.operands))):
        if is_order(order, kernels.operands):
            own = [
                b
                for b, g in zip(kernels.bytes_, kernels.is_given, strict=True)
                if not g
            ]
            assert peak_bytes(kernels, order) >= max(own, default=0)


@given(graphs(), st.data())
def test_combined_kernels_do_not_wait_for_one_another(kernels, data):
    count = len(kernels.operands)
    keyed = data.draw(st.sets(st.integers(0, count - 1)))
    keys = {at: data.draw(st.sampled_from("ab")) for at in keyed}
    unit = combine(kernels, range(len(kernels.operands)), keys, limit_bytes=12)
    for first in set(unit):
        members = [at for at in range(count) if unit[at] == first]
        assert len({keys.get(at) for at in members}) == 1
        if len(members) > 1:
            assert sum(kernels.bytes_[at] for at in members) <= 12
    contracted = contract(kernels, unit)
    assert all(first not in read for first, read in enumerate(contracted))
    order = order_units(kernels, unit, breadth_first)
    assert is_order(order, kernels.operands)
    # Those of one unit follow one another.
    runs = [key for key, _ in itertools.groupby(order, key=lambda at: unit[at])]
    assert len(runs) == len(set(unit))


@given(graphs(), st.data())
def test_what_a_guarded_argument_is_read_by_comes_before_its_update(kernels, data):
    count = len(kernels.operands)
    arguments = [
        at for at in range(count) if kernels.is_given[at] and kernels.users[at]
    ]
    updates = {at: data.draw(st.sampled_from(kernels.users[at])) for at in arguments}
    unit = tuple(range(count))
    guarded, units = guard(kernels, unit, updates)
    assert len(units) == len(guarded.operands)
    for make in (breadth_first, greedy):
        order = make(guarded)
        assert is_order(order, guarded.operands)
        place = {at: position for position, at in enumerate(order)}
        for argument, update in updates.items():
            readers = [at for at in guarded.users[argument] if at != update]
            assert all(place[at] < place[update] for at in readers)


@pytest.mark.parametrize("make", ORDERS)
def test_a_chain_runs_in_order(make):
    chain = Kernels(
        operands=((), (0,), (1,)),
        users=((1,), (2,), ()),
        bytes_=(4, 4, 4),
        is_given=(False,) * 3,
        roots=(2,),
        inner_bytes=(0,) * 3,
        reusable=((), (0,), (1,)),
        seconds=(1.0,) * 3,
        ends={},
    )
    assert make(chain) == [0, 1, 2]
    assert peak_bytes(chain, [0, 1, 2]) == 8
    assert peak_bytes(chain, [0, 1, 2], reuses=True) == 4


@given(graphs_with_collectives())
def test_hiding_keeps_one_collective_under_way(kernels):
    order = hide_latency(kernels)
    assert is_order(order, kernels.operands)
    under_way: list[int] = []
    for at in order:
        assert not under_way or at not in kernels.alone
        if at in kernels.ends:
            assert not under_way
            under_way.append(kernels.ends[at])
        elif at in under_way:
            under_way.remove(at)


def test_the_longest_chain_of_collectives_comes_last():
    """Two branches behind collectives of 1 and 5 s, and what joins them."""
    kernels = Kernels(
        operands=((), (0,), (1,), (), (3,), (4,), (2, 5)),
        users=((1,), (2,), (6,), (4,), (5,), (6,), ()),
        bytes_=(1,) * 7,
        is_given=(False,) * 7,
        roots=(6,),
        inner_bytes=(0,) * 7,
        reusable=((),) * 7,
        seconds=(5.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0),
        ends={0: 1, 3: 4},
    )
    order = hide_latency(kernels)
    assert order.index(5) < order.index(2)
    assert order.index(4) < order.index(0)


@given(graphs_with_collectives(), st.data())
def test_results_of_bundles_come_after_them(kernels, data):
    count = len(kernels.operands)
    bundled = data.draw(st.frozensets(st.integers(0, count - 1)))
    kernels = replace(kernels, bundled=bundled - kernels.ends.keys())
    order = order_units(kernels, range(count), hide_latency)
    assert is_order(order, kernels.operands)


@given(graphs_with_collectives())
def test_an_early_start_waits_for_its_operands_alone(kernels):
    order = start_early(kernels)
    assert is_order(order, kernels.operands)
    for start in kernels.ends:
        here = order.index(start)
        ready = max(
            (order.index(operand) for operand in kernels.operands[start]), default=-1
        )
        between = order[ready + 1 : here]
        assert ready < 0 or all(at in kernels.ends for at in between)


@given(graphs(), st.data())
def test_merged_kernels_can_run_as_one(kernels, data):
    count = len(kernels.operands)
    kernel = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(kernel, kernel), max_size=3))
    merged, unit = merge(kernels, pairs)
    order = order_units(merged, unit, breadth_first)
    assert is_order(order, merged.operands)
    for one, two in pairs:
        if unit[one] == unit[two]:
            read = (set(merged.operands[at]) - {one, two} for at in (one, two))
            assert next(read) == next(read)
