"""``python -m tepdist.demo``: trains twice, compares, and says whether it is the same.

Starts a server of its own on this machine, plans and trains there as a client, trains
the same steps with plain `jax.jit` on one device here. Ends with 1 if they differ.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from rich.console import Console, Group, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from tepdist.demo.comparison import LeafDifference, compare_states, verdicts
from tepdist.demo.training import Run, train_alone, train_in_double, train_on_server
from tepdist.errors import TepdistError
from tepdist.plans import files
from tepdist.plans.types import Plan
from tepdist.report.terminal import as_text, facts, new_table, plan_screen
from tepdist.report.units import seconds_text
from tepdist.zoo.entries import build
from tepdist.zoo.program import ZooProgram

# Of the sizes and rates tried, this one learns fast and keeps rounding errors small:
# with hidden=128 the losses of two orders of summation part by 1 % within 50 steps.
MODEL = "gpt:layers=2,hidden=64,heads=4,seq=32,batch=128,lr=2e-3,tied=false"
STEPS = 110
LOWEST_BAR = 0x2581  # of eight block characters in a row


@click.command()
@click.option("--steps", type=click.IntRange(50), default=STEPS, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Folder for plan.json and report.txt.",
)
def main(*, steps: int, out: Path) -> None:
    """Plan and train a small GPT on real text, and compare with one device."""
    console = Console()
    program = build(MODEL)
    console.print(Text(f"{program.name}, on English text byte by byte", style="bold"))
    with progress_bars(console) as bars:
        plan, planned, alone, leaves = train_all(program, steps, bars)
    claims = verdicts(planned, alone, leaves)
    report = Group(plan_screen(plan), results(program, planned, alone), _lines(claims))
    console.print(report)
    write_reports(out, plan, report)
    console.print(Text(f"\nthe plan and this report are in {out}/"))
    sys.exit(0 if all(claims.values()) else 1)


def train_all(
    program: ZooProgram, steps: int, bars: Progress
) -> tuple[Plan, Run, Run, tuple[LeafDifference, ...]]:
    """All runs and how far their states are apart.

    One device in f64 is only asked where the first tolerance does not settle it.
    """
    task = bars.add_task("8 devices, through the server", total=steps, note="starting")
    plan, planned = train_on_server(
        program,
        steps,
        planning=lambda phase, share: bars.update(task, note=f"{phase} {share:.0%}"),
        report=lambda note: bars.update(task, advance=1, note=note),
    )
    second = bars.add_task("1 device, plain jax.jit", total=steps, note="compiling")
    alone = train_alone(
        program,
        steps,
        report=lambda note: bars.update(second, advance=1, note=note),
    )
    leaves = compare_states(planned, alone)
    if all(leaf.is_same for leaf in leaves):
        return plan, planned, alone, leaves
    third = bars.add_task("1 device, in f64", total=steps, note="compiling")
    double = train_in_double(
        program,
        steps,
        report=lambda note: bars.update(third, advance=1, note=note),
    )
    return plan, planned, alone, compare_states(planned, alone, double)


def results(program: ZooProgram, planned: Run, alone: Run) -> RenderableType:
    """The losses side by side, and the speeds."""
    tokens = program.batch["tokens"].size
    columns = ("loss, 8 devices", "loss, 1 device", "difference")
    table = new_table("step", *columns, numbers=columns)
    count = len(planned.losses)
    for index in sorted({*range(0, count, max(1, count // 10)), count - 1}):
        mine, other = planned.losses[index], alone.losses[index]
        table.add_row(
            str(index + 1), f"{mine:.5f}", f"{other:.5f}", f"{abs(mine - other):.1e}"
        )
    speeds = tuple(
        (
            name,
            f"{seconds_text(run.step_s)} a step, {tokens / run.step_s:,.0f} tokens/s",
        )
        for name, run in (("8 devices", planned), ("1 device", alone))
    )
    curve = facts((("loss", sparkline(planned.losses)), *speeds))
    return Group("", table, "", curve, "")


def sparkline(values: Sequence[float], *, width: int = 60) -> str:
    """The values as a row of bars, each the mean of its share of them.

    >>> sparkline([0.0, 7.0], width=2) == chr(0x2581) + chr(0x2588)
    True
    """
    parts = np.array_split(np.asarray(values), min(width, len(values)))
    means = np.array([part.mean() for part in parts])
    spread = max(float(np.ptp(means)), 1e-12)
    levels = np.rint((means - means.min()) / spread * 7).astype(int)
    return "".join(chr(LOWEST_BAR + level) for level in levels)


def write_reports(folder: Path, plan: Plan, report: RenderableType) -> None:
    """Writes plan.json and report.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    files.save(plan, folder / "plan.json")
    (folder / "report.txt").write_text(as_text(report, width=100), encoding="utf-8")


def progress_bars(console: Console) -> Progress:
    """A bar for each run."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def _lines(claims: dict[str, bool]) -> RenderableType:
    return Group(
        *(
            Text(f"{'yes' if holds else 'NO '}  {claim}")
            for claim, holds in claims.items()
        )
    )


if __name__ == "__main__":
    try:
        main()
    except TepdistError as error:
        sys.exit(f"error: {error}")
