"""How well predicted step times rank plans: predicted beside measured, plan by plan.

    python benchmarks/ranking.py --cluster lab.toml [--program zoo:...] [--plans 13]

For each program plans are drawn by seed: the planner's own choice, then choices that
random meshes, levels and constraints on its arguments force on it; no two lie alike.
All run on the devices at hand, interleaved, in a new random order each round, a block
of steps at a time, and the median of each plan's rounds is taken. Printed are
Spearman's rank correlation of predicted and measured step time, that of two halves of
the measurements with each other (what noise leaves to be had), and how much slower the
plan predicted to be best is than the one measured to be. Ends with 1 if a program
misses what is asked.

`--cluster` is the file that `tepdist calibrate` wrote on this machine. Nothing else
should run meanwhile, then or now: collectives between a host's virtual devices wait for
whichever of them has no core to run on.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import click
import jax
import numpy as np
from machine import load_text, machine_lines
from numpy.typing import NDArray

from tepdist.cli.inputs import first_arguments
from tepdist.cli.programs import LoadedProgram, load_program
from tepdist.cluster.model import Cluster
from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.errors import NoPlanFits, OptionsError
from tepdist.plans.types import Options, Plan
from tepdist.runtime.devices import devices_for
from tepdist.runtime.local import Executable
from tepdist.search.meshes import candidate_meshes
from tepdist.sharding import Mesh

PROGRAMS = (
    "zoo:mlp",
    "zoo:gpt:tiny",
    "zoo:bert:tiny",
    "zoo:moe_layer",
)
LEAST_CORRELATION = 0.9
MOST_LOSS = 0.05
MOST_CONSTRAINTS = 12
# Draws that give a plan already drawn are thrown away; a program has only so many.
MOST_DRAWS = 40

Array: TypeAlias = NDArray[np.float64]
Constraints: TypeAlias = Mapping[str, tuple[tuple[str, ...], ...]]


@dataclass(frozen=True, slots=True)
class Ranking:
    """How predictions for one program's plans compare with measurements.

    Attributes:
        program: As on the command line.
        predicted_s: Of each plan [s].
        measured_s: Median of each plan [s].
        correlation: Spearman's, of the two.
        split_half: Spearman's, of the medians of odd and of even rounds.
        loss: Measured time of the plan predicted to be best over the best, less one.
    """

    program: str
    predicted_s: tuple[float, ...]
    measured_s: tuple[float, ...]
    correlation: float
    split_half: float
    loss: float

    @property
    def holds(self) -> bool:
        return self.correlation >= LEAST_CORRELATION and self.loss <= MOST_LOSS


@click.command()
@click.option("--cluster", required=True, help="What `tepdist calibrate` wrote.")
@click.option("--program", "programs", multiple=True, default=PROGRAMS)
@click.option("--plans", type=click.IntRange(2), default=13, show_default=True)
@click.option("--rounds", type=click.IntRange(2), default=20, show_default=True)
@click.option("--block", type=click.IntRange(1), default=8, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON as well.")
def main(
    *,
    cluster: str,
    programs: Sequence[str],
    plans: int,
    rounds: int,
    block: int,
    seed: int,
    output: Path | None,
) -> None:
    """Measure how well predicted step times rank plans."""
    click.echo("\n".join(machine_lines()))
    target = parse_cluster(cluster)
    devices = devices_for(target)
    found = []
    for text in programs:
        loaded = load_program(text, target)
        rng = np.random.default_rng(seed)
        drawn = draw_plans(loaded, target, count=plans, rng=rng)
        runs = [Runs(plan, devices, loaded) for plan in drawn]
        times = measure(runs, rounds=rounds, block=block, rng=rng)
        found.append(rank(text, [plan.predicted.step_time_s for plan in drawn], times))
        click.echo(report(found[-1]))
    click.echo(f"load     {load_text()} after")
    if output is not None:
        output.write_text(json.dumps([asdict(ranking) for ranking in found]))
    sys.exit(0 if all(ranking.holds for ranking in found) else 1)


def draw_plans(
    loaded: LoadedProgram, cluster: Cluster, *, count: int, rng: np.random.Generator
) -> list[Plan]:
    """The planner's own choice and `count - 1` others, no two alike."""
    drawn: dict[object, Plan] = {}
    for options in [Options(), *draw_options(loaded, cluster, rng)]:
        try:
            plan = compile_plan(loaded.program, loaded.roles, cluster, options=options)
        except (OptionsError, NoPlanFits):
            continue  # drawn constraints may contradict one another
        (stage,) = plan.stages
        drawn.setdefault((stage.mesh.shape, stage.values, stage.operands), plan)
        if len(drawn) == count:
            return list(drawn.values())
    sys.exit(f"{loaded.program.name}: only {len(drawn)} plans of {count} were found")


def draw_options(
    loaded: LoadedProgram, cluster: Cluster, rng: np.random.Generator
) -> Iterator[Options]:
    """Random meshes, levels and constraints on arguments."""
    meshes = candidate_meshes(cluster.num_devices, None)
    for _ in range(MOST_DRAWS):
        mesh = meshes[rng.integers(len(meshes))]
        yield Options(
            mesh=mesh,
            level=str(rng.choice(["O1", "O2"])),
            constraints=draw_constraints(loaded, mesh, rng),
        )


def draw_constraints(
    loaded: LoadedProgram, mesh: Mesh, rng: np.random.Generator
) -> Constraints:
    """Random shardings for a few random arguments of two dims or more."""
    program = loaded.program
    values = [program.values[value] for value in program.arguments]
    tensors = [value for value in values if len(value.shape) > 1]
    count = int(rng.integers(1, MOST_CONSTRAINTS + 1))
    picked = rng.choice(len(tensors), size=min(count, len(tensors)), replace=False)
    wanted = {}
    for value in (tensors[index] for index in picked):
        dims: list[tuple[str, ...]] = [()] * len(value.shape)
        for name, size in mesh.axes:
            dim = int(rng.integers(-1, len(dims)))
            if dim >= 0 and not dims[dim] and value.shape[dim] % size == 0:
                dims[dim] = (name,)
        wanted[value.name] = tuple(dims)
    return wanted


class Runs:
    """A plan on its devices, with the state that its steps pass on."""

    def __init__(
        self, plan: Plan, devices: Sequence[jax.Device], loaded: LoadedProgram
    ) -> None:
        """Compiles the plan and takes its first step."""
        self._executable = Executable(plan, devices)
        self._arguments: list[Any] = [
            self._executable.put(index, array)
            for index, array in enumerate(first_arguments(loaded))
        ]
        names = [argument.name for argument in plan.roles.arguments]
        self._next = [
            (names.index(result.replaces), position)
            for position, result in enumerate(plan.roles.results)
            if result.replaces is not None
        ]
        self.step_s()

    def step_s(self) -> float:
        """Time of one step, waited for [s]."""
        begin_s = time.perf_counter()
        results = self._executable(self._arguments)
        jax.block_until_ready(results)
        passed_s = time.perf_counter() - begin_s
        for argument, result in self._next:
            self._arguments[argument] = results[result]
        return passed_s


def measure(
    runs: Sequence[Runs], *, rounds: int, block: int, rng: np.random.Generator
) -> Array:
    """Mean step time of each block of steps, [rounds, plans] [s]."""
    times = np.empty((rounds, len(runs)))
    for number in range(rounds):
        for index in rng.permutation(len(runs)):
            steps = [runs[index].step_s() for _ in range(block)]
            times[number, index] = sum(steps) / block
    return times


def rank(program: str, predicted_s: Sequence[float], times: Array) -> Ranking:
    """The ranking of plans with these predicted and measured times."""
    predicted = np.array(predicted_s)
    measured = np.median(times, axis=0)
    halves = (np.median(times[half::2], axis=0) for half in (0, 1))
    return Ranking(
        program=program,
        predicted_s=tuple(predicted.tolist()),
        measured_s=tuple(measured.tolist()),
        correlation=spearman(predicted, measured),
        split_half=spearman(*halves),
        loss=float(measured[predicted.argmin()] / measured.min() - 1),
    )


def spearman(first: Array, second: Array) -> float:
    """Spearman's rank correlation; those that tie share their mean rank.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0]))
    0.5
    """
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(times: Array) -> Array:
    below = (times[:, None] > times).sum(axis=1)
    equal = (times[:, None] == times).sum(axis=1)
    return below + (equal - 1) / 2


def report(ranking: Ranking) -> str:
    """The plans of one program in order of measured time, and the verdict."""
    rows = sorted(zip(ranking.measured_s, ranking.predicted_s, strict=True))
    lines = [
        f"  {measured * 1e3:8.2f} ms measured {predicted * 1e3:8.2f} ms predicted"
        for measured, predicted in rows
    ]
    verdict = (
        f"  rank correlation {ranking.correlation:.3f} "
        f"(halves {ranking.split_half:.3f}), predicted best {ranking.loss:+.1%}: "
        f"{'holds' if ranking.holds else 'MISSED'}"
    )
    return "\n".join([f"\n{ranking.program}", *lines, verdict])


if __name__ == "__main__":
    main()
