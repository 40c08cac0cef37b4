"""`tepdist explain` and `diff`."""

from pathlib import Path

import click
from rich.console import Console

from tepdist.cli.progress import shown_progress
from tepdist.plans import files
from tepdist.plans.diff import diff as diff_plans
from tepdist.plans.explain import explain as explain_value
from tepdist.plans.explain import find_named
from tepdist.report.details import (
    costliest,
    diff_screen,
    explanation_screen,
    named_table,
)
from tepdist.report.terminal import plan_screen
from tepdist.search.alternatives import find_alternatives


@click.command()
@click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path))
@click.argument("name", required=False)
def explain(*, plan_file: Path, name: str | None) -> None:
    """Say why PLAN places the value or argument NAME as it does.

    NAME may be a pattern as in constraints, 'params/*'; what it means is listed if
    that is more than one. Without NAME: the plan, its costliest collectives
    and why they are there.
    """
    loaded = files.load(plan_file)
    console = Console()
    if name is None:
        console.print(plan_screen(loaded))
        console.print(costliest(loaded))
        return
    found = find_named(loaded, name)
    if len(found) > 1:
        console.print(named_table(loaded, found))
        click.echo(f"\n{len(found)} match {name}; one name alone says why")
        return
    (one,) = found
    with shown_progress("explaining", quiet=False) as report:
        report("pricing the alternatives", 0.0)
        others = find_alternatives(loaded, one.name)
    console.print(
        explanation_screen(explain_value(loaded, one.name, alternatives=others))
    )


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
def diff(*, first: Path, second: Path) -> None:
    """Show what plan SECOND decides differently from FIRST and what that costs."""
    Console().print(diff_screen(diff_plans(files.load(first), files.load(second))))
