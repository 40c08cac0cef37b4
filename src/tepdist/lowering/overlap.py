"""What runs while a collective is under way, read from scheduled HLO text.

In a scheduled module instructions start in the order in which they stand. A collective
that is split in a start and a done leaves the devices free for whatever stands between
the two; one that is not split leaves them waiting.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tepdist.lowering.compiled import collective_of, read_computations

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


def overlap_by_kind(hlo_text: str) -> dict[str, Overlap]:
    """How much of each kind of collective is under way while something is computed.

    Args:
        hlo_text: Of one compiled, scheduled module.
    """
    totals: dict[str, Overlap] = {}
    for computation in read_computations(hlo_text):
        for kind, bytes_, is_hidden in _collectives(computation.lines):
            known = totals.get(kind, Overlap(0, 0))
            added = bytes_ * computation.count
            totals[kind] = Overlap(
                known.hidden + (added if is_hidden else 0),
                known.exposed + (0 if is_hidden else added),
            )
    return totals


def _collectives(lines: Sequence[str]) -> Iterator[tuple[str, int, bool]]:
    """Kind, payload and whether a kernel runs beside it, of each collective."""
    open_: dict[str, tuple[str, int]] = {}
    hiding: set[str] = set()
    for line in lines:
        found = _INSTRUCTION.match(line)
        if found is None:
            continue
        name, kind, operand = found["name"], found["kind"], found["operand"]
        collective = collective_of(line)
        if collective is not None and kind.endswith("-start"):
            open_[name] = collective
        elif collective is not None:
            yield *collective, False
        elif kind.endswith("-done") and operand in open_:
            yield *open_.pop(operand), operand in hiding
        elif kind not in _FREE and not kind.endswith("-done"):
            hiding |= open_.keys()
