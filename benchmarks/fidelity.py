"""How near predictions are to what the compiler makes of plans; nothing runs.

    python benchmarks/fidelity.py [--platform gpu|cpu] [--case NAME ...] [--json]

Each case is planned and verified by `tepdist` processes of their own. Off is predicted
over compiled, less one. Plans for GPUs need the extra [gpu-check] and no GPU. Ends with
1 if a figure misses what is asked of it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from machine import machine_lines

from tepdist.cluster.presets import parse_cluster

ASKED_MEMORY = 0.10
ASKED_MEDIAN_MEMORY = 0.04
ASKED_COLLECTIVES = 0.02


@dataclass(frozen=True, slots=True)
class Case:
    """A program on a cluster at a level of search."""

    program: str
    cluster: str
    level: str

    @property
    def name(self) -> str:
        return f"{self.program} {self.cluster} {self.level}"


# Clusters of GPUs, each of another generation.
GPUS = ("8xa100-80g", "8x8xh100", "8xb200")
LEVELS = ("O1", "O2")
# Program and examples of each device: every family, its layers unrolled and scanned.
ON_GPUS = (
    ("bert:base:layers=4", 4),
    ("bert:large:layers=8,scan=true", 4),
    ("gpt:117m:layers=4", 4),
    ("gpt:117m:layers=2,dtype=f32", 4),
    ("gpt:345m:layers=8,scan=true", 4),
    ("gpt:345m:layers=8,scan=true,remat=full", 4),
    ("llama:8b:layers=2,seq=2048", 1),
    ("llama:8b:layers=4,seq=2048,scan=true", 1),
    ("mlp:width=4096", 512),
    ("moe:380m:layers=2", 8),
    ("moe_layer:hidden=1024,inner=4096,experts=64,seq=1024", 2),
    ("resnet:18", 32),
    ("resnet:50:dtype=bf16", 8),
    ("transformer:hidden=1024,heads=16,seq=512", 2),
    ("unet:31m", 2),
    ("vgg:11:dtype=bf16", 8),
    ("vgg:19", 8),
)
ON_CPUS = (
    "bert:tiny",
    "bert:tiny:layers=4,scan=true,remat=full",
    "gpt:tiny",
    "gpt:tiny:dtype=bf16",
    "gpt:tiny:layers=4,remat=full",
    "gpt:tiny:layers=4,scan=true",
    "gpt:layers=2,hidden=256,seq=256,vocab=2048,batch=16",
    "gpt:layers=4,hidden=256,seq=128,vocab=2048,batch=16,scan=true,remat=full",
    "llama:tiny",
    "llama:tiny:layers=4,scan=true,dtype=bf16",
    "mlp:width=512,batch=512,dtype=bf16",
    "mlp:width=1024,batch=1024",
    "moe:tiny",
    "moe:tiny:layers=4,scan=true",
    "moe_layer",
    "resnet:small:dtype=bf16",
    "resnet:tiny",
    "transformer",
    "unet:small",
    "unet:tiny",
    "vgg:small:batch=16",
    "vgg:tiny",
)
CPUS = "cpu:8"


def all_cases() -> Iterator[Case]:
    """Every program on every cluster that it is meant for, at every level."""
    for cluster in GPUS:
        num_devices = parse_cluster(cluster).num_devices
        for program, examples in ON_GPUS:
            joint = "," if "=" in program else ":"
            sized = f"zoo:{program}{joint}batch={examples * num_devices}"
            yield from (Case(sized, cluster, level) for level in LEVELS)
    for program in ON_CPUS:
        yield from (Case(f"zoo:{program}", CPUS, level) for level in LEVELS)


@dataclass(frozen=True, slots=True)
class Row:
    """One case as predicted and compiled.

    Attributes:
        case: Its name.
        predicted_bytes: Peak memory of a device [B].
        compiled_bytes: The same, as the compiler allocates it [B].
        worst_kind: Kind of collective that is furthest off; "" if there is none.
        worst_collective: How far [share]; infinite if it was not predicted.
        refused: Why it could not be verified; "" if it was.
    """

    case: str
    predicted_bytes: int
    compiled_bytes: int
    worst_kind: str
    worst_collective: float
    refused: str

    @property
    def memory_off(self) -> float:
        return self.predicted_bytes / self.compiled_bytes - 1


@click.command()
@click.option("--platform", type=click.Choice(["gpu", "cpu"]), help="Those cases only.")
@click.option("--case", "names", multiple=True, help="Cases whose names hold this.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone.")
def main(*, platform: str | None, names: Sequence[str], as_json: bool) -> None:
    """Plan, verify, compare."""
    lines = machine_lines()
    if not as_json:
        click.echo("\n".join([*lines, "", HEAD]))
    rows = []
    for case in chosen(platform, names):
        rows.append(check(case))
        if not as_json:
            click.echo(row_text(rows[-1]))
    if as_json:
        click.echo(json.dumps({"machine": lines, "rows": [asdict(r) for r in rows]}))
    missed = misses(rows)
    for text in missed:
        click.echo(text, err=True)
    sys.exit(1 if missed else 0)


def chosen(platform: str | None, names: Sequence[str]) -> list[Case]:
    """The cases that are asked for."""
    cases = [
        case
        for case in CASES
        if platform is None or case.cluster.startswith("cpu") == (platform == "cpu")
    ]
    if names:
        cases = [case for case in cases if any(name in case.name for name in names)]
    return cases


def check(case: Case) -> Row:
    """Plans a case and holds the plan against the compiler."""
    with tempfile.TemporaryDirectory() as folder:
        plan = str(Path(folder) / "plan.json")
        refused = run(
            "plan",
            case.program,
            "--cluster",
            case.cluster,
            "--level",
            case.level,
            "-o",
            plan,
        )[1]
        text, refused = ("", refused) if refused else run("verify", plan, "--json")
    if refused:
        return Row(case.name, 0, 0, "", 0.0, refused)
    (stage,) = json.loads(text)["stages"]
    kind, off = worst(stage["collectives"])
    return Row(
        case=case.name,
        predicted_bytes=stage["predicted_peak_bytes"],
        compiled_bytes=stage["compiled_peak_bytes"],
        worst_kind=kind,
        worst_collective=off,
        refused="",
    )


def run(*arguments: str) -> tuple[str, str]:
    """Output of a `tepdist` process, and the first line of its error if it failed."""
    done = subprocess.run(
        (sys.executable, "-m", "tepdist", *arguments),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    if not done.returncode:
        return done.stdout, ""
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return "", told[0] if told else f"ended with {done.returncode}"


def worst(collectives: Sequence[dict]) -> tuple[str, float]:
    """The kind of collective that is furthest off, and how far."""
    offs = {
        each["kind"]: (
            each["predicted_bytes"] / each["compiled_bytes"] - 1
            if each["compiled_bytes"]
            else float("inf")
        )
        for each in collectives
    }
    if not offs:
        return "", 0.0
    kind = max(offs, key=lambda name: abs(offs[name]))
    return kind, offs[kind]


HEAD = (
    f"{'case':62} {'predicted':>11} {'compiled':>11} {'off':>7}  "
    "collectives furthest off"
)


def row_text(row: Row) -> str:
    """A line of the table."""
    if row.refused:
        return f"{row.case:62} not verified: {row.refused}"
    collectives = "equal"
    if row.worst_collective:
        collectives = f"{row.worst_kind} {row.worst_collective:+.1%}"
    return (
        f"{row.case:62} {row.predicted_bytes / 1e6:8.2f} MB "
        f"{row.compiled_bytes / 1e6:8.2f} MB {row.memory_off:+7.1%}  {collectives}"
    )


def misses(rows: Sequence[Row]) -> list[str]:
    """What misses what is asked, a line each."""
    verified = [row for row in rows if not row.refused]
    texts = [f"MISSED: {row.case}: {row.refused}" for row in rows if row.refused]
    for row in verified:
        if abs(row.memory_off) > ASKED_MEMORY:
            texts.append(f"MISSED: {row.case}: memory {row.memory_off:+.1%}")
        if abs(row.worst_collective) > ASKED_COLLECTIVES:
            off = f"{row.worst_kind} {row.worst_collective:+.1%}"
            texts.append(f"MISSED: {row.case}: {off}")
    if verified:
        median = statistics.median(abs(row.memory_off) for row in verified)
        print(f"median of memory off: {median:.1%}", file=sys.stderr)
        if median > ASKED_MEDIAN_MEMORY:
            texts.append(f"MISSED: median of memory off {median:.1%}")
    return texts


if __name__ == "__main__":
    main()
