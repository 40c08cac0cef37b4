"""A plan on one screen, as rich renderables; computes no costs."""

import io

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tepdist.errors import listed
from tepdist.plans.diff import Traffic, traffic
from tepdist.plans.types import Plan, Stage
from tepdist.report.groups import ArgumentGroup, argument_groups, whole_state
from tepdist.report.units import (
    bytes_text,
    count_text,
    counted,
    percent_text,
    seconds_text,
)
from tepdist.sharding import Mesh, Sharding

MOST_ARGUMENTS = 12


def plan_screen(plan: Plan) -> RenderableType:
    """The whole plan for a terminal of 80 columns or more."""
    parts: list[RenderableType] = [_summary(plan), _arguments(plan)]
    parts.extend(_collectives(stage) for stage in plan.stages)
    parts.extend(_notes(plan))
    return Group(*parts)


def as_text(renderable: RenderableType, *, width: int = 80) -> str:
    """A renderable as plain text without colours."""
    console = Console(
        file=io.StringIO(), width=width, color_system=None, legacy_windows=False
    )
    with console.capture() as capture:
        console.print(renderable)
    lines = (line.rstrip() for line in capture.get().splitlines())
    return "\n".join(lines) + "\n"


def placement_text(sharding: Sharding, shape: tuple[int, ...]) -> str:
    """Each extent with the mesh axes that cut it.

    >>> placement_text(Sharding((("data",), ())), (64, 128))
    '64/data x 128'
    """
    if not shape:
        return "scalar"
    return " x ".join(
        str(extent) + "".join(f"/{axis}" for axis in axes)
        for extent, axes in zip(shape, sharding.dims, strict=True)
    )


def new_table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """A table without borders whose first column folds and whose numbers align."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for position, name in enumerate(columns):
        table.add_column(
            name,
            justify="right" if name in numbers else "left",
            overflow="fold",
            no_wrap=position > 0 and name in numbers,
        )
    return table


def facts(rows: tuple[tuple[str, str], ...]) -> RenderableType:
    """Lines of a bold word and a fact."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, fact in rows:
        grid.add_row(name, Text(fact))
    return grid


def _summary(plan: Plan) -> RenderableType:
    program, cluster = plan.program, plan.cluster
    stage_meshes = "; ".join(_mesh_text(stage.mesh) for stage in plan.stages)
    return facts(
        (
            (
                "program",
                f"{program.name}: {counted(len(program.ops), 'op')}, "
                f"fingerprint {plan.fingerprint[:12]}",
            ),
            (
                "cluster",
                f"{cluster.name}: {cluster.num_devices} x {cluster.device.kind}",
            ),
            ("mesh", stage_meshes),
            ("step", _step_text(plan)),
            ("memory", _memory_text(plan)),
            ("search", _search_text(plan)),
        )
    )


def _mesh_text(mesh: Mesh) -> str:
    return " x ".join(f"{name} {size}" for name, size in mesh.axes) or "one device"


def _step_text(plan: Plan) -> str:
    predicted = plan.predicted
    text = (
        f"{seconds_text(predicted.step_time_s)} predicted: "
        f"compute {seconds_text(predicted.compute_s)}, "
        f"communication {seconds_text(predicted.communication_s)}"
    )
    hidden = predicted.communication_s - predicted.exposed_communication_s
    if hidden > 0:
        text += f" ({seconds_text(hidden)} hidden)"
    if predicted.model_flops:
        text += (
            f"; {count_text(predicted.model_flops)}flop, MFU "
            f"{percent_text(predicted.mfu)}"
        )
    return text


def _memory_text(plan: Plan) -> str:
    limit = plan.options.memory_limit_bytes
    if limit is None:
        limit = plan.cluster.device.usable_bytes
    memory = max((stage.memory for stage in plan.stages), key=lambda part: part.peak)
    parts = ", ".join(
        f"{name} {bytes_text(getattr(memory, name))}"
        for name in ("state", "gradients", "activations", "temporaries")
        if getattr(memory, name)
    )
    text = (
        f"{bytes_text(memory.peak)} of {bytes_text(limit)} per device "
        f"({percent_text(memory.peak / limit)})" + (f": {parts}" if parts else "")
    )
    if memory.allocated:
        text += f"; the compiler allocates {bytes_text(memory.allocated)}"
    if memory.allocated > limit:
        text += ", more than the limit"
    return text


def _search_text(plan: Plan) -> str:
    record = plan.search
    text = (
        f"{record.level}, {seconds_text(record.seconds)}, "
        f"{counted(record.num_candidates, 'mesh', 'meshes')}; "
        f"cost {seconds_text(record.cost_s)}"
    )
    bound = record.lower_bound_s
    if bound is None:
        return text + ", no lower bound"
    gap = (record.cost_s - bound) / record.cost_s if record.cost_s else 0.0
    return f"{text}, lower bound {seconds_text(bound)}, gap {percent_text(gap)}"


def _arguments(plan: Plan) -> RenderableType:
    groups = argument_groups(plan)
    table = new_table("argument", "role", "shape / axes", "per device")
    table.columns[-1].justify = "right"
    for group in groups[:MOST_ARGUMENTS]:
        table.add_row(
            Text(_group_name(group)),
            group.role.value,
            f"{group.dtype} {placement_text(group.sharding, group.shape)}",
            bytes_text(group.bytes_per_device),
        )
    rest = groups[MOST_ARGUMENTS:]
    if rest:
        table.add_row(
            f"{sum(group.count for group in rest)} more",
            "",
            "",
            bytes_text(sum(group.bytes_per_device for group in rest)),
        )
    return Group("", table)


def _group_name(group: ArgumentGroup) -> str:
    return f"{group.pattern} x {group.count}" if group.count > 1 else group.pattern


def _collectives(stage: Stage) -> RenderableType:
    sums = traffic((stage,))
    if not sums:
        return Text("\nno collectives")
    table = new_table(
        "phase",
        "collective",
        "calls",
        "payload per device",
        "time",
        numbers=("calls", "payload per device", "time"),
    )
    for (phase, kind), total in sums.items():
        table.add_row(phase, kind.replace("_", "-"), *traffic_cells(total))
    return Group("", table)


def traffic_cells(total: Traffic) -> tuple[str, str, str]:
    """Calls, payload and time of some collectives."""
    return str(total.count), bytes_text(total.bytes_), seconds_text(total.seconds)


def _notes(plan: Plan) -> list[RenderableType]:
    names = dict.fromkeys(
        name for stage in plan.stages for name in stage.replicated_ops
    )
    notes: list[RenderableType] = []
    if names:
        shown = listed(list(names), 8)
        notes.append(
            Text(f"\ncomputed whole on every device, for no rule is known: {shown}")
        )
    whole = whole_state(plan)
    if whole:
        total = bytes_text(sum(group.bytes_per_device for group in whole))
        shown = listed([_group_name(group) for group in whole], 4)
        notes.append(
            Text(
                f"\nzero={plan.options.zero} leaves {total} of state whole, where no "
                f"extent divides or no gradient is summed: {shown}"
            )
        )
    return notes
