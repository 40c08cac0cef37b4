"""An explanation and a difference of plans as rich renderables."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from tepdist.plans.diff import CostChange, PlanDiff
from tepdist.plans.explain import Explanation, Named
from tepdist.plans.json import bytes_per_device
from tepdist.plans.reasons import Reasons
from tepdist.plans.types import Collective, Plan
from tepdist.report.terminal import facts, new_table, placement_text, traffic_cells
from tepdist.report.units import bytes_text, counted, seconds_text
from tepdist.sharding import Mesh, Sharding

MOST_COLLECTIVES = 8
MOST_REASONS = 10


def explanation_screen(explanation: Explanation) -> RenderableType:
    """Why a value lies as it does."""
    role = "" if explanation.role is None else f", {explanation.role.value}"
    rows = [
        ("value", f"{explanation.name}{role}"),
        (
            "sharding",
            f"{explanation.dtype} "
            f"{placement_text(explanation.sharding, explanation.shape)} "
            f"on mesh {explanation.mesh}",
        ),
        (
            "memory",
            f"{bytes_text(explanation.bytes_per_device)} per device of "
            f"{bytes_text(explanation.total_bytes)}",
        ),
    ]
    if explanation.scope:
        rows.append(("made at", explanation.scope))
    parts: list[RenderableType] = [facts(tuple(rows))]
    for title, collectives in (
        ("collectives on it", explanation.own),
        ("collectives on what reads it", explanation.readers),
        ("collectives on the way to its next value", explanation.update),
    ):
        if collectives:
            parts.append(collective_table(title, collectives))
    if not (explanation.own or explanation.readers or explanation.update):
        parts.append(Text("\nno collective concerns it"))
    if explanation.alternatives:
        parts.append(_alternatives(explanation))
    return Group(*parts)


def named_table(plan: Plan, found: tuple[Named, ...]) -> RenderableType:
    """Where each of some values lies, a line each."""
    (stage, *_), program = plan.stages, plan.program
    table = new_table(
        "value", "role", "shape / axes", "per device", numbers=("per device",)
    )
    for named in found:
        value, sharding = program.values[named.index], stage.values[named.index]
        table.add_row(
            Text(named.name),
            "-" if named.role is None else named.role.value,
            f"{value.dtype} {placement_text(sharding, value.shape)}",
            bytes_text(bytes_per_device(value, sharding, stage.mesh)),
        )
    return table


def collective_table(title: str, collectives: tuple[Collective, ...]) -> RenderableType:
    """Collectives one by one, the first few."""
    table = new_table(
        title, "kind", "axes", "payload", "time", numbers=("payload", "time")
    )
    for each in collectives[:MOST_COLLECTIVES]:
        table.add_row(
            Text(f"{each.value} ({each.phase})"),
            each.kind.replace("_", "-"),
            ",".join(each.mesh_axes),
            f"{each.count} x {bytes_text(each.bytes_)}",
            seconds_text(each.seconds),
        )
    rest = collectives[MOST_COLLECTIVES:]
    if rest:
        seconds = sum(each.seconds for each in rest)
        table.add_row(f"{len(rest)} more", "", "", "", seconds_text(seconds))
    return Group("", table)


def costliest(plan: Plan) -> RenderableType:
    """The collectives that cost most, and why they are there."""
    reasons = Reasons(plan)
    found = sorted(
        (each for stage in plan.stages for each in stage.collectives),
        key=lambda each: -each.seconds,
    )
    if not found:
        return Text("\nno collective is needed")
    table = new_table("costliest", "payload", "time", numbers=("payload", "time"))
    for each in found[:MOST_REASONS]:
        kind = each.kind.replace("_", "-")
        table.add_row(
            Text(f"{each.phase} {kind} over {','.join(each.mesh_axes)}: {each.value}"),
            f"{each.count} x {bytes_text(each.bytes_)}",
            seconds_text(each.seconds),
        )
        why = Text(reasons.of(each), style="dim")
        table.add_row(Padding(why, (0, 0, 0, 2)), "", "")
    rest = found[MOST_REASONS:]
    if rest:
        seconds = sum(each.seconds for each in rest)
        table.add_row(f"{len(rest)} more", "", seconds_text(seconds))
    return Group("", table)


def _alternatives(explanation: Explanation) -> RenderableType:
    table = new_table("otherwise", "step time", numbers=("step time",))
    for other in explanation.alternatives:
        sign = "+" if other.added_s >= 0 else ""
        table.add_row(
            placement_text(other.sharding, explanation.shape),
            sign + seconds_text(other.added_s),
        )
    return Group("", table)


def diff_screen(diff: PlanDiff) -> RenderableType:
    """What two plans decide differently and what that costs."""
    if diff.is_empty:
        return Text("the plans decide the same")
    rows: list[tuple[str, str]] = []
    if diff.programs:
        rows.append(("program", " -> ".join(each[:12] for each in diff.programs)))
    if diff.clusters:
        rows.append(("cluster", " -> ".join(diff.clusters)))
    if diff.meshes:
        rows.append(("mesh", " -> ".join(_meshes_text(each) for each in diff.meshes)))
    if diff.num_interior:
        values = counted(diff.num_interior, "value lies", "values lie")
        rows.append(("inside", f"{values} otherwise"))
    parts = [facts(tuple(rows)), _costs(diff.costs)]
    if diff.arguments:
        parts.append(_arguments(diff))
    if diff.collectives:
        parts.append(_traffic(diff))
    return Group(*parts)


def _meshes_text(meshes: tuple[Mesh, ...]) -> str:
    return "; ".join(str(mesh) for mesh in meshes)


def _costs(costs: tuple[CostChange, ...]) -> RenderableType:
    table = new_table(
        "predicted", "first", "second", "change", numbers=("first", "second", "change")
    )
    for cost in costs:
        name, unit = cost.name.rsplit("_", 1)
        text = seconds_text if unit == "s" else bytes_text
        change = cost.right - cost.left
        table.add_row(
            name.replace("_", " "),
            text(cost.left),
            text(cost.right),
            ("+" if change > 0 else "") + text(change),
        )
    return Group("", table)


def _arguments(diff: PlanDiff) -> RenderableType:
    table = new_table("argument", "first", "second")
    for change in diff.arguments[:20]:
        table.add_row(
            Text(change.name), _sharding(change.left), _sharding(change.right)
        )
    if len(diff.arguments) > 20:
        table.add_row(f"{len(diff.arguments) - 20} more", "", "")
    return Group("", table)


def _sharding(sharding: Sharding | None) -> Text:
    return Text("not there" if sharding is None else str(sharding))


def _traffic(diff: PlanDiff) -> RenderableType:
    table = new_table(
        "collectives",
        "",
        "calls",
        "payload",
        "time",
        numbers=("calls", "payload", "time"),
    )
    for change in diff.collectives:
        for title, total in (("first", change.left), ("second", change.right)):
            kind = change.kind.replace("_", "-")
            table.add_row(f"{change.phase} {kind}", title, *traffic_cells(total))
    return Group("", table)
