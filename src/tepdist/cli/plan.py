"""`tepdist plan`, `explain` and `diff`."""

from pathlib import Path

import click
from rich.console import Console

from tepdist.cli.options import planning_options
from tepdist.cli.programs import load_program
from tepdist.cli.progress import shown_progress
from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.garbage import collection_paused
from tepdist.plans import files
from tepdist.plans.diff import diff as diff_plans
from tepdist.plans.explain import explain as explain_value
from tepdist.plans.explain import find_named
from tepdist.plans.json import to_json
from tepdist.plans.types import Options
from tepdist.report.details import (
    costliest,
    diff_screen,
    explanation_screen,
    named_table,
)
from tepdist.report.terminal import plan_screen
from tepdist.search.alternatives import find_alternatives


@click.command()
@click.argument("program")
@click.option("--cluster", required=True, help="cpu:8, 8xh100, 16x8xh100, a TOML file.")
@planning_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write plan JSON."
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan JSON alone.")
@collection_paused()
def plan(
    *,
    program: str,
    cluster: str,
    options: Options,
    output: Path | None,
    as_json: bool,
) -> None:
    """Search a parallel plan for PROGRAM and print it."""
    target = parse_cluster(cluster)
    with shown_progress("planning", quiet=as_json) as report:
        report("reading the program", 0.0)
        loaded = load_program(program, target)
        found = compile_plan(
            loaded.program, loaded.roles, target, options=options, progress=report
        )
    if output is not None:
        files.save(found, output)
    if as_json:
        click.echo(to_json(found), nl=False)
        return
    Console().print(plan_screen(found))
    if output is not None:
        click.echo(f"\nwritten to {output}")


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
