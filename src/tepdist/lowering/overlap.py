"""What runs while a collective is under way, read from scheduled HLO text.

In a scheduled module instructions start in the order in which they stand. A collective
that is split in a start and a done leaves the devices free for whatever stands between
the two; one that is not split leaves them waiting.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tepdist.lowering.compiled import collective_of, read_computations
from tepdist.lowering.device_groups import Groups, device_groups

_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = .*? (?P<kind>[a-z][a-z0-9\-]*)"
    r"\((?:%?(?P<operand>[\w.\-]+))?"
)
# What takes no time on the device.
_FREE = frozenset(
    {
        "bitcast",
        "constant",
        "get-tuple-element",
        "parameter",
        "partition-id",
        "replica-id",
        "tuple",
    }
)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Bytes of one kind of collective, by what runs beside them, per step and device.

    Attributes:
        hidden: Of those with a kernel between start and done [B].
        exposed: Of the others [B].
    """

    hidden: int
    exposed: int


@dataclass(frozen=True, slots=True)
class Scheduled:
    """One collective where the compiler put it.

    Attributes:
        kind: As in `Collective.kind`.
        bytes_: Payload per device and call [B]; the sum over a combined collective.
        count: Calls per step.
        groups: Devices that exchange; None for all.
        is_hidden: Whether a kernel runs beside it.
    """

    kind: str
    bytes_: int
    count: int
    groups: Groups | None
    is_hidden: bool


def overlap_by_kind(hlo_text: str) -> dict[str, Overlap]:
    """How much of each kind of collective is under way while something is computed.

    Args:
        hlo_text: Of one compiled, scheduled module.
    """
    totals: dict[str, Overlap] = {}
    for each in scheduled_collectives(hlo_text):
        known = totals.get(each.kind, Overlap(0, 0))
        added = each.bytes_ * each.count
        totals[each.kind] = Overlap(
            known.hidden + (added if each.is_hidden else 0),
            known.exposed + (0 if each.is_hidden else added),
        )
    return totals


def scheduled_collectives(hlo_text: str) -> Iterator[Scheduled]:
    """All collectives of a module.

    Args:
        hlo_text: Of one compiled, scheduled module.
    """
    for computation in read_computations(hlo_text):
        for line, is_hidden in _collectives(computation.lines):
            found = collective_of(line)
            assert found is not None
            kind, bytes_ = found
            groups = device_groups(line)
            yield Scheduled(kind, bytes_, computation.count, groups, is_hidden)


def _collectives(lines: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Line of each collective, and whether a kernel runs beside it."""
    open_: dict[str, str] = {}
    hiding: set[str] = set()
    for line in lines:
        found = _INSTRUCTION.match(line)
        if found is None:
            continue
        name, kind, operand = found["name"], found["kind"], found["operand"]
        is_collective = collective_of(line) is not None
        if is_collective and kind.endswith("-start"):
            open_[name] = line
        elif is_collective:
            yield line, False
        elif kind.endswith("-done") and operand in open_:
            yield open_.pop(operand), operand in hiding
        elif kind not in _FREE and not kind.endswith("-done"):
            hiding |= open_.keys()
