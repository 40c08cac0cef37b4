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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from machine import machine_lines

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


CASES = tuple(
    Case(f"zoo:{program}", cluster, level)
    for program, cluster, level in (
        ("gpt:117m:layers=4", "2x8xa100-80g", "O1"),
        ("gpt:117m:layers=4", "2x8xa100-80g", "O2"),
        ("gpt:345m:scan=true,batch=64", "8x8xh100", "O2"),
        ("gpt:tiny", "8xh100", "O2"),
        ("llama:8b:layers=2,batch=8,seq=2048", "8xb200", "O2"),
        ("moe:380m:layers=2,batch=64", "8xa100-80g", "O2"),
        ("moe_layer:hidden=1024,inner=4096,experts=16,seq=1024", "8xh100", "O2"),
        ("bert:base:layers=4,batch=32", "2x8xh100", "O2"),
        ("vgg:19:batch=64", "8xa100-80g", "O1"),
        ("resnet:18:batch=64", "8xh100", "O1"),
        ("unet:31m", "8xb200", "O1"),
        ("mlp:width=4096,batch=4096", "8xa100-80g", "O2"),
        ("gpt:layers=2,hidden=256,seq=256,batch=16,vocab=2048", "cpu:8", "O2"),
        ("gpt:tiny:scan=true,layers=4", "cpu:8", "O2"),
        ("llama:tiny", "cpu:8", "O2"),
        ("moe:tiny", "cpu:8", "O2"),
        ("bert:tiny", "cpu:8", "O2"),
        ("vgg:small:batch=16", "cpu:8", "O1"),
        ("resnet:tiny", "cpu:8", "O1"),
        ("unet:small", "cpu:8", "O1"),
        ("mlp:width=1024,batch=1024", "cpu:8", "O2"),
    )
)


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
