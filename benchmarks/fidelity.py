"""How near predictions are to what the compiler makes of plans; nothing runs.

    python benchmarks/fidelity.py [--platform gpu|cpu] [--case NAME ...] [--rows FILE]
                                  [--again] [--json]

Every program of the zoo, small enough to compile in seconds, on clusters of each kind
of GPU and on CPUs, at two levels of search. Each case is planned and verified by
`tepdist` processes of their own. Off is predicted over compiled, less one. Plans for
GPUs need the extra [gpu-check] and no GPU. All takes an hour: with --rows each row goes
to a file as it comes, its plan to a folder beside that, and cases whose rows are there
are not run again. With --again their memory is predicted anew from the plans that are
kept: a minute for all, after a change of the model. Ends with 1 if a figure misses what
is asked of it; what the compiler refuses is told with its reason.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
from machine import machine_lines

from tepdist.cluster.presets import parse_cluster
from tepdist.plans.json import from_json
from tepdist.search.allocated import allocated_again

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

    @property
    def is_on_cpus(self) -> bool:
        return self.cluster == CPUS


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
        cluster: Its cluster.
        predicted_bytes: Peak memory of a device [B].
        compiled_bytes: The same, as the compiler allocates it [B].
        collectives: Kind to its payload per step, predicted and compiled [B].
        refused: Why it could not be verified; "" if it was.
    """

    case: str
    cluster: str
    predicted_bytes: int
    compiled_bytes: int
    collectives: Mapping[str, tuple[int, int]]
    refused: str

    @property
    def memory_off(self) -> float:
        return off(self.predicted_bytes, self.compiled_bytes)

    @property
    def worst_kind(self) -> tuple[float, str]:
        """How far the kind of collective is off that is furthest off, and its name."""
        offs = [(off(*both), kind) for kind, both in self.collectives.items()]
        return max(offs, key=lambda each: abs(each[0]), default=(0.0, ""))


def off(predicted: float, compiled: float) -> float:
    """Predicted over compiled, less one; infinite if nothing was compiled."""
    return predicted / compiled - 1 if compiled else float("inf")


@click.command()
@click.option("--platform", type=click.Choice(["gpu", "cpu"]), help="Those cases only.")
@click.option("--case", "names", multiple=True, help="Cases whose names hold this.")
@click.option("--rows", "file", type=click.Path(path_type=Path), help="Keep rows here.")
@click.option("--again", is_flag=True, help="Predict anew from the plans kept.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone.")
def main(
    *,
    platform: str | None,
    names: Sequence[str],
    file: Path | None,
    again: bool,
    as_json: bool,
) -> None:
    """Plan, verify, compare."""
    if again and not file:
        raise click.UsageError("--again needs the --rows of an earlier run")
    lines = machine_lines()
    if not as_json:
        click.echo("\n".join([*lines, "", HEAD]))
    rows = []
    for row in rows_of(chosen(platform, names), file, again=again):
        rows.append(row)
        if not as_json:
            click.echo(row_text(rows[-1]))
    if as_json:
        click.echo(json.dumps({"machine": lines, "rows": [asdict(r) for r in rows]}))
    else:
        click.echo("\n".join(["", *memory_lines(rows), "", *collective_lines(rows)]))
    missed = misses(rows)
    for text in missed:
        click.echo(text, err=True)
    sys.exit(1 if missed else 0)


def chosen(platform: str | None, names: Sequence[str]) -> list[Case]:
    """The cases that are asked for."""
    return [
        case
        for case in all_cases()
        if (platform is None or case.is_on_cpus == (platform == "cpu"))
        and (not names or any(name in case.name for name in names))
    ]


def read_rows(file: Path | None) -> dict[str, Row]:
    """Rows of an earlier run, by case."""
    if file is None or not file.exists():
        return {}
    rows = (Row(**json.loads(line)) for line in file.read_text("utf-8").splitlines())
    return {row.case: row for row in rows}


def rows_of(cases: Sequence[Case], file: Path | None, *, again: bool) -> Iterator[Row]:
    """A row for each case; with a file those that it has, and then the others' too."""
    if file is None:
        with tempfile.TemporaryDirectory() as folder:
            yield from (check(case, Path(folder)) for case in cases)
        return
    plans = file.with_suffix(".plans")
    plans.mkdir(parents=True, exist_ok=True)
    known = read_rows(file)
    for case in cases:
        if case.name in known:
            row = known[case.name]
            yield predicted_again(row, plan_file(plans, case)) if again else row
        elif not again:
            row = check(case, plans)
            with file.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps(asdict(row)) + "\n")
            yield row


def plan_file(folder: Path, case: Case) -> Path:
    """Where the plan of a case is kept."""
    return folder / f"{case.name.replace(' ', '_').replace(':', '_')}.json"


def predicted_again(row: Row, plan_file: Path) -> Row:
    """A row with the memory that its plan is predicted to take now."""
    if row.refused:
        return row
    plan = from_json(plan_file.read_text("utf-8"))
    return replace(row, predicted_bytes=allocated_again(plan))


def check(case: Case, folder: Path) -> Row:
    """Plans a case and holds the plan, which a folder keeps, against the compiler."""
    plan = str(plan_file(folder, case))
    planning = ("plan", case.program, "--cluster", case.cluster)
    refused = run(*planning, "--level", case.level, "-o", plan)[1]
    text, refused = ("", refused) if refused else run("verify", plan, "--json")
    if refused:
        return Row(case.name, case.cluster, 0, 0, {}, refused)
    (stage,) = json.loads(text)["stages"]
    return Row(
        case=case.name,
        cluster=case.cluster,
        predicted_bytes=stage["predicted_peak_bytes"],
        compiled_bytes=stage["compiled_peak_bytes"],
        collectives={
            each["kind"]: (each["predicted_bytes"], each["compiled_bytes"])
            for each in stage["collectives"]
        },
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
    return "", told[0] if told else f"{ENDED} {done.returncode}"


ENDED = "ended with"
HEAD = (
    f"{'case':82} {'predicted':>11} {'compiled':>11} {'off':>7}  "
    "collectives furthest off"
)


def row_text(row: Row) -> str:
    """A line of the table."""
    if row.refused:
        return f"{row.case:82} not verified: {row.refused}"
    by, kind = row.worst_kind
    return (
        f"{row.case:82} {row.predicted_bytes / 1e6:8.2f} MB "
        f"{row.compiled_bytes / 1e6:8.2f} MB {row.memory_off:+7.1%}  "
        f"{f'{kind} {by:+.1%}' if by else 'equal'}"
    )


def memory_lines(rows: Sequence[Row]) -> Iterator[str]:
    """What memory is off, by cluster."""
    yield f"{'memory':12} {'pairs':>5} {'within':>6} {'median':>7} {'worst':>7}"
    for name in (*GPUS, CPUS, "all"):
        offs = [
            abs(row.memory_off)
            for row in rows
            if not row.refused and name in (row.cluster, "all")
        ]
        if offs:
            within = sum(each <= ASKED_MEMORY for each in offs)
            median = statistics.median(offs)
            yield f"{name:12} {len(offs):5} {within:6} {median:7.1%} {max(offs):7.1%}"


def collective_lines(rows: Sequence[Row]) -> Iterator[str]:
    """What collectives are off, by kind."""
    yield (
        f"{'collectives':20} {'pairs':>5} {'within':>6} {'worst':>7} "
        f"{'predicted':>13} {'compiled':>13}"
    )
    for kind in sorted({kind for row in rows for kind in row.collectives}):
        pairs = [row.collectives[kind] for row in rows if kind in row.collectives]
        offs = [abs(off(*pair)) for pair in pairs]
        predicted, compiled = (sum(each) for each in zip(*pairs, strict=True))
        yield (
            f"{kind:20} {len(pairs):5} {sum(o <= ASKED_COLLECTIVES for o in offs):6} "
            f"{max(offs):7.1%} {predicted / 1e6:10.2f} MB {compiled / 1e6:10.2f} MB"
        )


def misses(rows: Sequence[Row]) -> list[str]:
    """What misses what is asked, a line each."""
    texts = []
    for row in rows:
        if row.refused:
            if row.refused.startswith(ENDED):
                texts.append(f"MISSED: {row.case}: {row.refused}")
            continue
        if abs(row.memory_off) > ASKED_MEMORY:
            texts.append(f"MISSED: {row.case}: memory {row.memory_off:+.1%}")
        by, kind = row.worst_kind
        if abs(by) > ASKED_COLLECTIVES:
            texts.append(f"MISSED: {row.case}: {kind} {by:+.1%}")
    offs = [abs(row.memory_off) for row in rows if not row.refused]
    if offs and statistics.median(offs) > ASKED_MEDIAN_MEMORY:
        texts.append(f"MISSED: median of memory {statistics.median(offs):.1%}")
    return texts


if __name__ == "__main__":
    main()
