"""The collectives of a compiled program, read from its HLO text.

Payloads are counted as a plan counts them: the whole tensor along the collective's
axes for all-reduce, all-gather and reduce-scatter, the local operand for all-to-all
and permute; loops by their trips; a start/done pair once.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tepdist.lowering.device_groups import device_groups
from tepdist.program.graph import DTYPE_BYTES

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(rf"= (.+?) ({_KINDS})(-start)?\((.*)$")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch|true|false)_computations?=\{?([^},]+(?:, [^},]+)*)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
# HLO names of element types to MLIR's.
_DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "pred": "i1",
        **{f"s{bits}": f"i{bits}" for bits in (2, 4, 8, 16, 32, 64)},
        **{f"u{bits}": f"ui{bits}" for bits in (2, 4, 8, 16, 32, 64)},
        "c64": "complex<f32>",
        "c128": "complex<f64>",
        "f8e4m3fn": "f8E4M3FN",
        "f8e5m2": "f8E5M2",
    }
)


@dataclass(frozen=True, slots=True)
class CompiledCollective:
    """One collective instruction.

    Attributes:
        kind: As in `Collective.kind`.
        bytes_: Payload per device and call [B]; the sum over a combined collective.
        count: Calls per step.
    """

    kind: str
    bytes_: int
    count: int


@dataclass(frozen=True, slots=True)
class Computation:
    """One computation of a module.

    Attributes:
        lines: Its instructions, in order.
        count: How often it runs per step.
    """

    lines: tuple[str, ...]
    count: int


def compiled_collectives(hlo_text: str) -> tuple[CompiledCollective, ...]:
    """All collectives of a compiled module.

    Args:
        hlo_text: Of one partitioned module.
    """
    return tuple(
        CompiledCollective(*found, computation.count)
        for computation in read_computations(hlo_text)
        for line in computation.lines
        if (found := collective_of(line)) is not None
    )


def read_computations(hlo_text: str) -> tuple[Computation, ...]:
    """The computations of a module that run.

    Args:
        hlo_text: Of one partitioned module.
    """
    bodies = _computations(hlo_text)
    counts = _run_counts(bodies)
    return tuple(
        Computation(tuple(lines), counts[name])
        for name, lines in bodies.items()
        if counts[name]
    )


def bytes_by_kind(hlo_text: str) -> dict[str, int]:
    """Payload of all calls of one step, by kind [B]."""
    totals: dict[str, int] = {}
    for collective in compiled_collectives(hlo_text):
        total = totals.get(collective.kind, 0)
        totals[collective.kind] = total + collective.bytes_ * collective.count
    return totals


def _computations(hlo_text: str) -> dict[str, list[str]]:
    """Name of each computation to its lines; the entry comes last."""
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in hlo_text.splitlines():
        opened = _COMPUTATION.match(line)
        if opened:
            lines = bodies[opened.group(1)] = []
        elif line.startswith(" "):
            lines.append(line)
    return bodies


def _run_counts(bodies: Mapping[str, list[str]]) -> dict[str, int]:
    """How often each computation runs per step: callees stand before callers."""
    counts = dict.fromkeys(bodies, 0)
    if bodies:
        counts[list(bodies)[-1]] = 1
    for name in reversed(list(bodies)):
        for line in bodies[name]:
            trips = _TRIPS.search(line)
            times = counts[name] * (int(trips.group(1)) if trips else 1)
            for callee in _callees(line):
                if callee in counts:
                    counts[callee] += times
    return counts


def _callees(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    for branches in _BRANCHES.findall(line):
        yield from (branch.strip().lstrip("%") for branch in branches.split(","))


def collective_of(line: str) -> tuple[str, int] | None:
    """Kind and payload [B] of the collective that an instruction is or starts."""
    found = _COLLECTIVE.search(line)
    if found is None:
        return None
    result, kind, start, rest = found.groups()
    shapes = _SHAPE.findall(result)
    if start and kind != "all-reduce":
        # A start's result lists the operands, then the results.
        shapes = shapes[len(shapes) // 2 :] if len(shapes) > 1 else shapes
    bytes_ = sum(_bytes(dtype, dims) for dtype, dims in shapes)
    if kind == "reduce-scatter":
        bytes_ *= _group_size(rest)
    return kind.replace("-", "_"), bytes_


def _bytes(dtype: str, dims: str) -> int:
    elements = math.prod(int(dim) for dim in dims.split(",") if dim)
    return math.ceil(elements * DTYPE_BYTES.get(_DTYPES.get(dtype, dtype), 0))


def _group_size(attributes: str) -> int:
    """Devices in each group of a collective."""
    groups = device_groups(attributes)
    return len(groups[0]) if groups is not None else 1
