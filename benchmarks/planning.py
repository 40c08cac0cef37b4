"""What planning costs: seconds and memory of whole `tepdist plan` processes.

    python benchmarks/planning.py [--program zoo:gpt:175b:batch=64 ...] [--repeats 3]

Each program is exported once. Then `tepdist plan FILE --cluster C --level L --json`
runs as a process of its own, as a user would start it. Times and memory are the
system's own account of that process and its children; of several repeats the slowest
counts. Without `--program` all cases run that something is asked of, and the benchmark
ends with 1 if one misses it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
from machine import machine_lines

CLUSTER = "128x8xa100-80g"
GPT = "zoo:gpt:175b:batch=64"
SHALLOW_GPT = "zoo:gpt:175b:layers=12,batch=64"
MOE = "zoo:moe:140b"
# Search time of 96 layers by that of 12, at most.
MOST_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Case:
    """What is planned.

    Attributes:
        program: As on the command line.
        cluster: Likewise.
        level: Likewise.
        asked: Attribute of `Planned` to the most it may be.
    """

    program: str
    cluster: str = CLUSTER
    level: str = "O2"
    asked: Mapping[str, float] = field(default_factory=dict)


CASES = (
    Case(
        GPT,
        asked={
            "wall_s": 10.0,
            "peak_rss_bytes": 4 * 2**30,
            "memory_per_device_bytes": 80e9,
        },
    ),
    Case(GPT, level="O1", asked={"wall_s": 4.0}),
    Case(SHALLOW_GPT),
    Case("zoo:gpt:175b:batch=64,scan=true", asked={"wall_s": 5.0}),
    Case("zoo:gpt:1.3b:layers=1024,batch=64", asked={"wall_s": 60.0}),
    Case(MOE, asked={"wall_s": 10.0}),
    Case(MOE, level="O1", asked={"wall_s": 4.0}),
    Case("zoo:llama:8b", cluster="8x8xa100-80g", asked={"wall_s": 12.0}),
)


@dataclass(frozen=True, slots=True)
class Planned:
    """One planning process.

    Attributes:
        program: As on the command line.
        cluster: Likewise.
        level: Likewise.
        wall_s: Whole process [s].
        cpu_s: User and system time of it and its children [s].
        peak_rss_bytes: Largest resident memory of the largest of its processes [B].
        search_s: Of it the search, as the plan says [s].
        memory_per_device_bytes: Of the plan [B].
        step_time_s: Of the plan [s].
        gap: By how much the plan may cost more than the best there is, a share.
        mesh: Of the plan's stages.
    """

    program: str
    cluster: str
    level: str
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    search_s: float
    memory_per_device_bytes: int
    step_time_s: float
    gap: float
    mesh: str


@click.command()
@click.option("--program", "programs", multiple=True, help="Instead of all cases.")
@click.option("--cluster", default=CLUSTER, show_default=True, help="Of --program.")
@click.option("--level", default="O2", show_default=True, help="Of --program.")
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone.")
def main(
    *, programs: Sequence[str], cluster: str, level: str, repeats: int, as_json: bool
) -> None:
    """Measure whole planning processes."""
    cases = [Case(program, cluster, level) for program in programs] or CASES
    lines = machine_lines()
    if not as_json:
        click.echo("\n".join(lines) + "\n\n" + HEAD)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        files = {
            program: export(program, Path(folder))
            for program in dict.fromkeys(case.program for case in cases)
        }
        for case in cases:
            runs = [run_plan(case, files[case.program]) for _ in range(repeats)]
            found.append(max(runs, key=lambda run: run.wall_s))
            if not as_json:
                click.echo(row(found[-1]))
    if as_json:
        click.echo(json.dumps({"machine": lines, "runs": [asdict(r) for r in found]}))
    missed = [
        text
        for case, planned in zip(cases, found, strict=True)
        for text in misses(case, planned)
    ]
    missed += growth_misses(found)
    for text in missed:
        click.echo(text, err=True)
    sys.exit(1 if missed else 0)


def export(program: str, folder: Path) -> Path:
    """Writes the program as `tepdist export` does."""
    file = folder / (program.replace(":", "_").replace("/", "_") + ".bc")
    command = (sys.executable, "-m", "tepdist", "export", program, "-o", str(file))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return file


def run_plan(case: Case, file: Path) -> Planned:
    """Runs the process and reads its plan."""
    arguments = ("plan", str(file), "--cluster", case.cluster, "--level", case.level)
    command = (sys.executable, "-m", "tepdist", *arguments, "--json")
    begin_s = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        # `wait4` gives this child's own figures; `getrusage` the largest of all so far.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - begin_s
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    plan = json.loads(text)
    search, predicted = plan["search"], plan["predicted"]
    return Planned(
        program=case.program,
        cluster=case.cluster,
        level=case.level,
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=usage.ru_maxrss * 1024,
        search_s=search["seconds"],
        memory_per_device_bytes=predicted["memory_per_device_bytes"],
        step_time_s=predicted["step_time_s"],
        gap=1 - (search["lower_bound_s"] or 0.0) / search["cost_s"],
        mesh=" | ".join(
            "x".join(str(size) for size in stage["mesh"]["axes"].values())
            for stage in plan["stages"]
        ),
    )


HEAD = (
    f"{'program':34} {'cluster':15} {'at':2} {'wall':>7} {'search':>7} {'cpu':>7} "
    f"{'memory':>8} {'per device':>10} {'step':>9} {'gap':>6}  mesh"
)


def row(run: Planned) -> str:
    """A line of the table."""
    return (
        f"{run.program:34} {run.cluster:15} {run.level:2} "
        f"{run.wall_s:5.1f} s {run.search_s:5.1f} s "
        f"{run.cpu_s:5.1f} s {run.peak_rss_bytes / 2**30:4.2f} GiB "
        f"{run.memory_per_device_bytes / 1e9:7.1f} GB {run.step_time_s:7.3f} s "
        f"{run.gap:5.1%}  {run.mesh}"
    )


def misses(case: Case, planned: Planned) -> list[str]:
    """What is above what is asked, a line each."""
    return [
        f"MISSED: {case.program} at {case.level}: {name} is "
        f"{getattr(planned, name):.4g}, asked for at most {most:.4g}"
        for name, most in case.asked.items()
        if getattr(planned, name) > most
    ]


def growth_misses(found: Iterable[Planned]) -> list[str]:
    """Whether search time grows too much with depth, if both depths were planned."""
    search_s = {run.program: run.search_s for run in found if run.level == "O2"}
    if not {GPT, SHALLOW_GPT} <= search_s.keys():
        return []
    growth = search_s[GPT] / search_s[SHALLOW_GPT]
    if growth <= MOST_GROWTH:
        return []
    return [
        f"MISSED: search takes {growth:.2f} times as long for 96 layers as for 12, "
        f"asked for at most {MOST_GROWTH}"
    ]


if __name__ == "__main__":
    main()
