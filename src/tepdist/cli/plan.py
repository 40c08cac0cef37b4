"""`tepdist plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from tepdist.cli.options import planning_options
from tepdist.cli.programs import load_program, reading
from tepdist.cli.progress import shown_progress
from tepdist.garbage import collection_paused

if TYPE_CHECKING:
    from tepdist.plans.types import Options, Plan
    from tepdist.program.preparation import Preparation


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
    with reading(program) as started:
        found = _planned(
            program, cluster, options=options, started=started, quiet=as_json
        )
    from tepdist.plans import files
    from tepdist.plans.json import to_json
    from tepdist.report.terminal import plan_screen

    if output is not None:
        files.save(found, output)
    if as_json:
        click.echo(to_json(found), nl=False)
        return
    Console().print(plan_screen(found))
    if output is not None:
        click.echo(f"\nwritten to {output}")


def _planned(
    program: str,
    cluster: str,
    *,
    options: Options,
    started: Preparation | None,
    quiet: bool,
) -> Plan:
    """The plan; what finds it is imported while a child reads the program."""
    from tepdist.cluster.presets import parse_cluster
    from tepdist.compiler import compile_plan

    target = parse_cluster(cluster)
    with shown_progress("planning", quiet=quiet) as report:
        report("reading the program", 0.0)
        loaded = load_program(program, target, started=started)
        return compile_plan(
            loaded.program, loaded.roles, target, options=options, progress=report
        )
