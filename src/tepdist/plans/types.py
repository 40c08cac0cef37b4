"""The plan: every decision, as plain data.

The names of fields are the keys of the JSON form where INTERFACE names them. Values,
ops and operands are meant by their index in `Program`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tepdist.cluster.model import Cluster
from tepdist.program.graph import Program
from tepdist.program.roles import Role, Roles
from tepdist.sharding import Mesh, Sharding

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may ask of a search; None leaves it to the search.

    Attributes:
        level: ``O1``, ``O2`` or ``O3``.
        time_limit_s: Time the search may take [s].
        mesh: Forced mesh.
        num_stages: Forced number of pipeline stages.
        num_micro_batches: Forced number of micro-batches.
        schedule: Forced pipeline schedule.
        recompute: Forced recomputation.
        virtual_stages: Forced virtual stages per device.
        zero: Forced ZeRO stage (0 to 3).
        memory_limit_bytes: Per device; None for the device's usable bytes.
        constraints: Name pattern (glob over argument and value names) to the
            sharding it must have: per dim a mesh axis, several, or None.
        exact: Refuse what would change the numbers.
    """

    level: str = "O2"
    time_limit_s: float | None = None
    mesh: Mesh | None = None
    num_stages: int | None = None
    num_micro_batches: int | None = None
    schedule: str | None = None
    recompute: str | None = None
    virtual_stages: int | None = None
    zero: int | None = None
    memory_limit_bytes: int | None = None
    constraints: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Collective:
    """Collectives of one kind, size and place in the program, as priced.

    Attributes:
        phase: ``forward``, ``backward``, ``update`` or ``transfer``.
        kind: ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all`` or
            ``collective_permute``.
        mesh_axes: Axes it runs over.
        bytes_: Payload per device and call as INTERFACE defines it [B].
        count: Calls per step.
        seconds: Time of all `count` calls [s].
        value: Name of the value that is reduced or resharded.
        op: Index of the op that it follows (a reduction) or feeds (a resharding).
    """

    phase: str
    kind: str
    mesh_axes: tuple[str, ...]
    bytes_: int
    count: int
    seconds: float
    value: str
    op: int


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Peak memory of one device of a stage and what it is made of [B].

    `peak` is the largest sum over time, `state` and the rest what each kind holds at
    that time: what a memory limit is held against. `allocated` is what the platform's
    compiler is expected to allocate, layouts, copies and its order of kernels counted.
    """

    state: int
    gradients: int
    activations: int
    temporaries: int
    peak: int
    allocated: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One pipeline stage: a mesh and the sharding of everything on it.

    Attributes:
        index: Position in the pipeline.
        devices: Ids of its devices, in mesh order.
        mesh: Their grid.
        values: For each value of the program its sharding as produced.
        operands: For each op, for each operand, the sharding that the op wants it in;
            where it differs from the value's own, the value is resharded.
        results: For each result of the program the sharding it is handed out in.
        memory: Predicted.
        collectives: Predicted.
        compute_s: Predicted time of the ops on one device [s].
        replicated_ops: Names of ops that no rule covers, computed whole everywhere.
    """

    index: int
    devices: tuple[int, ...]
    mesh: Mesh
    values: tuple[Sharding, ...] = field(repr=False)
    operands: tuple[tuple[Sharding, ...], ...] = field(repr=False)
    results: tuple[Sharding, ...] = field(repr=False)
    memory: StageMemory
    collectives: tuple[Collective, ...] = field(repr=False)
    compute_s: float
    replicated_ops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Repriced:
    """A plan that was compiled before one was chosen.

    Attributes:
        mesh: Of its stage.
        cost_s: As searched [s].
        compiled_s: Step time with the collectives that the compiler emits, where its
            schedule has them [s]; None if it was not compiled.
        allocated_bytes: Memory per device that the compiler allocates [B]; None if it
            does not say.
        is_chosen: Whether this is the plan.
        reason: Why it was not compiled; None if it was.
    """

    mesh: Mesh
    cost_s: float
    compiled_s: float | None
    allocated_bytes: int | None
    is_chosen: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """How the plan was found.

    Attributes:
        level: As asked.
        seconds: Whole search [s].
        phases: Name to seconds.
        cost_s: Objective of the plan [s].
        lower_bound_s: No plan of the searched space costs less [s]: all plans on one
            and two mesh axes and, on three, those near this one; all plans on the mesh
            that is forced. None if time ran out before every mesh had a bound.
        num_candidates: Meshes (and later cuts) looked at.
        repriced: At O3, the best plans as searched, cheapest first; empty if there was
            but one.
    """

    level: str
    seconds: float
    phases: Mapping[str, float]
    cost_s: float
    lower_bound_s: float | None
    num_candidates: int
    repriced: tuple[Repriced, ...] = ()


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the plan should do per step, per INTERFACE."""

    step_time_s: float
    compute_s: float
    communication_s: float
    exposed_communication_s: float
    bubble_fraction: float
    model_flops: float
    mfu: float
    memory_per_device_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The complete decision for one program on one cluster."""

    program: Program
    roles: Roles
    fingerprint: str
    cluster: Cluster
    options: Options
    search: SearchRecord
    predicted: Predicted
    stages: tuple[Stage, ...]
    schedule: str = "none"
    num_micro_batches: int = 1

    def argument_shardings(self, role: Role | None = None) -> dict[str, Sharding]:
        """Argument name to its sharding on the first stage that holds it."""
        (stage,) = self.stages
        return {
            argument.name: stage.values[value]
            for argument, value in zip(
                self.roles.arguments, self.program.arguments, strict=True
            )
            if role is None or argument.role is role
        }
