"""`tepdist run`: plans a program and steps it with given or made-up inputs."""

import time
from collections.abc import Sequence
from pathlib import Path

import click
import jax
import numpy as np
from rich.console import Console

from tepdist.cli.inputs import Array, first_arguments, read_inputs
from tepdist.cli.options import planning_options
from tepdist.cli.programs import load_program
from tepdist.cli.progress import shown_progress
from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.errors import StepFailed, shortened
from tepdist.lowering.dtypes import is_wide
from tepdist.plans.types import Options
from tepdist.report.terminal import plan_screen
from tepdist.report.units import counted, seconds_text
from tepdist.runtime.devices import devices_for
from tepdist.runtime.local import Executable


@click.command()
@click.argument("program")
@click.option("--cluster", required=True, help="The devices at hand, e.g. cpu:8.")
@click.option("--steps", type=click.IntRange(1), default=10, show_default=True)
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    help="An .npz file of arrays by argument name; others are made up.",
)
@planning_options
def run(
    *,
    program: str,
    cluster: str,
    steps: int,
    inputs: Path | None,
    options: Options,
) -> None:
    """Plan PROGRAM and run it on the devices at hand.

    Arguments that no file gives are made up, always alike. A built-in program gets
    its own initial state and a batch of its own; the program of a file small random
    floats, zeros for integers and for state that only the update reads.
    """
    target = parse_cluster(cluster)
    devices = devices_for(target)
    with shown_progress("planning", quiet=False) as report:
        loaded = load_program(program, target)
        given = read_inputs(inputs, loaded) if inputs else {}
        plan = compile_plan(
            loaded.program, loaded.roles, target, options=options, progress=report
        )
        report("compiling", 1.0)
        if is_wide(loaded.program):
            jax.config.update("jax_enable_x64", True)
        executable = Executable(plan, devices)
    Console().print(plan_screen(plan))
    click.echo()
    times = step_all(executable, first_arguments(loaded, given), steps=steps)
    later = times[1:] or times
    click.echo(
        f"\n{counted(steps, 'step')}, "
        f"median {seconds_text(float(np.median(later)))} a step; "
        f"predicted {seconds_text(plan.predicted.step_time_s)}"
    )


def step_all(
    executable: Executable, host: Sequence[Array], *, steps: int
) -> list[float]:
    """Runs the steps and prints their losses; the time of each [s].

    The same batch is used at every step, and every state argument takes the result
    that replaces it.
    """
    arguments = [executable.put(index, array) for index, array in enumerate(host)]
    roles = executable.plan.roles
    times = []
    for step in range(1, steps + 1):
        start = time.perf_counter()
        try:
            results = executable(arguments)
            jax.block_until_ready(results)
        except jax.errors.JaxRuntimeError as error:
            raise StepFailed(
                f"step {step} failed: {shortened(str(error))}",
                where=executable.plan.program.name,
                hint="--debug shows all that the runtime says",
            ) from error
        times.append(time.perf_counter() - start)
        losses = [
            f"{role.name} {float(result):.6g}"
            for role, result in zip(roles.results, results, strict=True)
            if role.is_loss
        ]
        click.echo(
            f"step {step:4d}  {', '.join(losses) or 'done'}  {seconds_text(times[-1])}"
        )
        new_state = {
            role.replaces: result
            for role, result in zip(roles.results, results, strict=True)
            if role.replaces is not None
        }
        for index, role in enumerate(roles.arguments):
            if role.name in new_state:
                arguments[index] = new_state[role.name]
            elif role.donated:
                arguments[index] = executable.put(index, host[index])
    return times
