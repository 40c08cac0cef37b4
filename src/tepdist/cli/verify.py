"""`tepdist verify`: a plan held against the compiler."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import click
import jax
from rich.console import Console

from tepdist.cli.progress import shown_progress
from tepdist.lowering.dtypes import is_wide
from tepdist.plans import files
from tepdist.report.verification import verification_screen
from tepdist.runtime.verification import verify as verify_plan


@click.command()
@click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone.")
def verify(*, plan_file: Path, as_json: bool) -> None:
    """Compile PLAN for its own devices and print predicted against compiled.

    Nothing runs. Plans for GPUs need no GPU, but pip install 'tepdist[gpu-check]'.
    """
    # The plugin looks for CUDA's libraries, which compiling does not need.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    loaded = files.load(plan_file)
    with shown_progress("verifying", quiet=as_json) as report:
        report("compiling", 0.0)
        if is_wide(loaded.program):
            jax.config.update("jax_enable_x64", True)
        checks = verify_plan(loaded)
    if as_json:
        click.echo(json.dumps({"stages": [asdict(check) for check in checks]}))
        return
    Console().print(verification_screen(checks))
