"""What two plans decide differently, as data."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from tepdist.plans.types import Collective, Plan, Stage
from tepdist.sharding import Mesh, Sharding

T = TypeVar("T")

PHASES = ("forward", "backward", "update", "transfer")
COSTS = (
    "step_time_s",
    "compute_s",
    "communication_s",
    "exposed_communication_s",
    "memory_per_device_bytes",
)


@dataclass(frozen=True, slots=True)
class ShardingChange:
    """An argument that two plans place differently.

    Attributes:
        name: Of the argument.
        left: Its sharding in the first plan; None if the plan has no such argument.
        right: In the second.
    """

    name: str
    left: Sharding | None
    right: Sharding | None


@dataclass(frozen=True, slots=True)
class Traffic:
    """All collectives of one kind in one phase of a step.

    Attributes:
        count: Calls per step.
        bytes_: Payload per device of all calls [B].
        seconds: Time of all calls [s].
    """

    count: int
    bytes_: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TrafficChange:
    """Collectives of one phase and kind that differ between two plans."""

    phase: str
    kind: str
    left: Traffic
    right: Traffic


@dataclass(frozen=True, slots=True)
class CostChange:
    """One predicted figure of two plans, in the unit that its name says."""

    name: str
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """What two plans decide differently; empty parts are equal.

    Attributes:
        programs: The two fingerprints, if they differ.
        clusters: The two clusters' names, if the clusters differ.
        meshes: Per stage the two meshes, if any differ.
        arguments: Arguments that are placed differently.
        num_interior: Values inside the program with another sharding; None if the
            programs differ, for then their values do not correspond.
        collectives: Phases and kinds with other traffic.
        costs: Every predicted figure, differing or not.
    """

    programs: tuple[str, str] | None
    clusters: tuple[str, str] | None
    meshes: tuple[tuple[Mesh, ...], tuple[Mesh, ...]] | None
    arguments: tuple[ShardingChange, ...]
    num_interior: int | None
    collectives: tuple[TrafficChange, ...]
    costs: tuple[CostChange, ...]

    @property
    def is_empty(self) -> bool:
        """Whether both plans decide the same for the same program and cluster."""
        decided = (self.programs, self.clusters, self.meshes, self.num_interior)
        return not any((*decided, self.arguments, self.collectives))


def diff(left: Plan, right: Plan) -> PlanDiff:
    """What the second plan decides differently from the first."""
    same_program = left.program.module == right.program.module
    meshes = tuple(tuple(stage.mesh for stage in plan.stages) for plan in (left, right))
    return PlanDiff(
        programs=_changed(left.fingerprint, right.fingerprint),
        clusters=(
            None
            if left.cluster == right.cluster
            else (left.cluster.name, right.cluster.name)
        ),
        meshes=_changed(meshes[0], meshes[1]),
        arguments=_argument_changes(left, right),
        num_interior=_num_interior(left, right) if same_program else None,
        collectives=_traffic_changes(left, right),
        costs=tuple(
            CostChange(
                name, getattr(left.predicted, name), getattr(right.predicted, name)
            )
            for name in COSTS
        ),
    )


def traffic(stages: Iterable[Stage]) -> dict[tuple[str, str], Traffic]:
    """Collectives of a step added up by (phase, kind), in the order of phases."""
    groups: dict[tuple[str, str], list[Collective]] = defaultdict(list)
    for stage in stages:
        for collective in stage.collectives:
            groups[collective.phase, collective.kind].append(collective)
    return {
        key: Traffic(
            count=sum(each.count for each in group),
            bytes_=sum(each.count * each.bytes_ for each in group),
            seconds=sum(each.seconds for each in group),
        )
        for key, group in sorted(groups.items(), key=lambda item: _phase_rank(*item[0]))
    }


def _phase_rank(phase: str, kind: str) -> tuple[int, str]:
    return PHASES.index(phase) if phase in PHASES else len(PHASES), kind


def _changed(left: T, right: T) -> tuple[T, T] | None:
    return None if left == right else (left, right)


def _argument_changes(left: Plan, right: Plan) -> tuple[ShardingChange, ...]:
    before, after = left.argument_shardings(), right.argument_shardings()
    names = dict.fromkeys((*before, *after))
    return tuple(
        ShardingChange(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )


def _num_interior(left: Plan, right: Plan) -> int:
    num_arguments = len(left.program.arguments)
    return sum(
        before != after
        for left_stage, right_stage in zip(left.stages, right.stages, strict=False)
        for before, after in zip(
            left_stage.values[num_arguments:],
            right_stage.values[num_arguments:],
            strict=True,
        )
    )


def _traffic_changes(left: Plan, right: Plan) -> tuple[TrafficChange, ...]:
    before, after = traffic(left.stages), traffic(right.stages)
    none = Traffic(count=0, bytes_=0, seconds=0.0)
    return tuple(
        TrafficChange(*key, before.get(key, none), after.get(key, none))
        for key in dict.fromkeys((*before, *after))
        if before.get(key) != after.get(key)
    )
