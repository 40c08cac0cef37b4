"""A plan's predictions held against what the compiler makes of it; nothing runs."""

from dataclasses import dataclass

from tepdist.lowering.compiled import bytes_by_kind
from tepdist.lowering.overlap import Overlap, overlap_by_kind
from tepdist.plans.types import Plan
from tepdist.runtime.compiled import peak_bytes
from tepdist.runtime.deviceless import compile_for_cluster


@dataclass(frozen=True, slots=True)
class CollectiveCheck:
    """Collectives of one kind per step and device.

    Attributes:
        kind: As in `Collective.kind`.
        predicted_bytes: Payload of all calls as planned [B].
        compiled_bytes: As compiled [B].
        overlap: Of the compiled ones.
    """

    kind: str
    predicted_bytes: int
    compiled_bytes: int
    overlap: Overlap


@dataclass(frozen=True, slots=True)
class StageCheck:
    """One stage as predicted and as compiled.

    Attributes:
        index: Of the stage.
        predicted_peak_bytes: Memory per device as planned [B].
        compiled_peak_bytes: As the compiler allocates it [B]; None if it does not say.
        collectives: Every kind that is planned or compiled.
        predicted_exposed_s: Communication that nothing hides, as planned [s].
        compiled_exposed_s: The planned time of the share, by kind and bytes, beside
            which the compiled schedule has nothing run [s].
    """

    index: int
    predicted_peak_bytes: int
    compiled_peak_bytes: int | None
    collectives: tuple[CollectiveCheck, ...]
    predicted_exposed_s: float
    compiled_exposed_s: float


def verify(plan: Plan) -> tuple[StageCheck, ...]:
    """Compiles every stage for the plan's own devices and compares.

    Args:
        plan: Of one stage.

    Raises:
        ClusterError: if there is no compiler here for such devices; says why.
        ProgramError: if the compiler refuses the program.
    """
    (stage,) = plan.stages
    compiled = compile_for_cluster(plan)
    hlo_text = compiled.as_text() or ""
    planned_bytes: dict[str, int] = {}
    planned_s: dict[str, float] = {}
    for each in stage.collectives:
        sum_ = planned_bytes.get(each.kind, 0) + each.bytes_ * each.count
        planned_bytes[each.kind] = sum_
        planned_s[each.kind] = planned_s.get(each.kind, 0.0) + each.seconds
    found_bytes, overlaps = bytes_by_kind(hlo_text), overlap_by_kind(hlo_text)
    checks = tuple(
        CollectiveCheck(
            kind=kind,
            predicted_bytes=planned_bytes.get(kind, 0),
            compiled_bytes=found_bytes.get(kind, 0),
            overlap=overlaps.get(kind, Overlap(0, 0)),
        )
        for kind in sorted(planned_bytes.keys() | found_bytes.keys())
    )
    check = StageCheck(
        index=stage.index,
        predicted_peak_bytes=stage.memory.allocated,
        compiled_peak_bytes=peak_bytes(compiled),
        collectives=checks,
        predicted_exposed_s=plan.predicted.exposed_communication_s,
        compiled_exposed_s=sum(
            planned_s.get(each.kind, 0.0) * each.overlap.exposed / each.compiled_bytes
            for each in checks
            if each.compiled_bytes
        ),
    )
    return (check,)
