"""What the levels of search cost and find, over the zoo, in one process.

    python benchmarks/levels.py [--case NAME ...] [--level O1 ...] [--o3-seconds 60]

Each case is traced once and planned at every level. Asked: O1 searches for a second at
most; O2's plan costs at most 1 % more than its bound or than O3's plan; no level's plan
costs more than that of the level below. Ends with 1 if a case misses one of these.
Seconds are of this process and on the clock; other work on the machine counts.
"""

import itertools
import json
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from machine import machine_lines

from tepdist import zoo
from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.errors import TepdistError
from tepdist.frontends.jax import trace
from tepdist.plans.types import Options, Plan
from tepdist.program.graph import Program
from tepdist.program.roles import Role, Roles

LEVELS = ("O1", "O2", "O3")
MOST_O1_S = 1.0
MOST_GAP = 0.01
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Case:
    """What is planned.

    Attributes:
        program: Of the zoo.
        cluster: As on the command line.
        tight: Limit of the memory, in times of the state cut into a shard for each
            device; None for the device's own.
    """

    program: str
    cluster: str
    tight: float | None = None

    @property
    def name(self) -> str:
        return f"{self.program} {self.cluster}{f' x{self.tight}' if self.tight else ''}"


SMALL = (
    "mlp",
    "transformer",
    "gpt:tiny",
    "gpt:tiny:layers=4,scan=true",
    "llama:tiny",
    "bert:tiny",
    "moe:tiny",
    "moe_layer",
    "resnet:tiny",
    "resnet:small",
    "unet:tiny",
    "unet:small",
    "vgg:tiny",
    "vgg:small",
)
PUBLISHED = (
    "mlp:width=4096,batch=4096",
    "gpt:117m",
    "gpt:1.3b:scan=true,batch=64",
    "llama:8b:layers=4,batch=16",
    "bert:base",
    "moe:380m:batch=64",
    "moe_layer:hidden=1024,inner=4096,experts=16,seq=1024",
    "resnet:50",
    "unet:31m",
    "vgg:19",
)
LARGE = (
    Case("gpt:175b:scan=true", "128x8xa100-80g"),
    Case("gpt:175b", "128x8xa100-80g"),
    Case("moe:140b", "128x8xa100-80g"),
    Case("llama:8b", "8x8xa100-80g"),
)
# A tenth or so more than what is needed with every tensor cut as far as it goes.
TIGHT = (
    ("mlp", 1.3),
    ("transformer", 1.5),
    ("gpt:tiny", 4.2),
    ("gpt:tiny:layers=4,scan=true", 7.5),
    ("gpt:layers=4,hidden=64,heads=8,seq=4,vocab=64,batch=32,remat=full", 1.6),
    ("gpt:layers=6,hidden=256,heads=8,seq=8,vocab=64,batch=2,remat=full", 1.1),
    ("llama:tiny", 3.8),
)
CASES = (
    *(Case(program, "cpu:8") for program in SMALL),
    *(Case(program, "cpu:8", tight=times) for program, times in TIGHT),
    *(Case(program, "8xa100-80g") for program in (*SMALL, *PUBLISHED)),
    *(Case(program, "2x8xh100") for program in (*SMALL, *PUBLISHED)),
    Case("gpt:1.3b:layers=4,scan=true", "8xa100-80g", tight=1.5),
    *LARGE,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One search.

    Attributes:
        case: Name of its case.
        level: Of the search.
        search_s: Of it, by the clock [s].
        cpu_s: Processor time of this process meanwhile [s].
        phases: Name to seconds by the clock.
        cost_s: Of the plan; None if nothing was found to fit [s].
        lower_bound_s: No plan costs less; None without a proof [s].
        mesh: Of the plan.
    """

    case: str
    level: str
    search_s: float
    cpu_s: float
    phases: Mapping[str, float]
    cost_s: float | None
    lower_bound_s: float | None
    mesh: str

    @property
    def gap(self) -> float:
        """By how much the plan may cost more than the best there is, a share."""
        return 1 - (self.lower_bound_s or 0.0) / self.cost_s if self.cost_s else 1.0


@click.command()
@click.option("--case", "names", multiple=True, help="Cases whose names hold this.")
@click.option("--level", "levels", multiple=True, type=click.Choice(LEVELS))
@click.option("--o3-seconds", type=click.FloatRange(0), default=60.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Rows as JSON lines.")
def main(
    *, names: Sequence[str], levels: Sequence[str], o3_seconds: float, out: Path | None
) -> None:
    """Plan the zoo at every level."""
    click.echo("\n".join([*machine_lines(), "", HEAD]))
    missed: list[str] = []
    for case in CASES:
        if names and not any(name in case.name for name in names):
            continue
        rows = []
        for row in planned(case, levels or LEVELS, o3_seconds=o3_seconds):
            rows.append(row)
            click.echo(text_of(row))
            if out is not None:
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
        missed += misses(rows)
    for text in missed:
        click.echo(f"MISSED: {text}")
    sys.exit(1 if missed else 0)


def planned(case: Case, levels: Sequence[str], *, o3_seconds: float) -> Iterator[Row]:
    """Plans one case at each level."""
    built = zoo.build(case.program)
    traced = trace(built.train_step, (built.state, built.batch), {}, name=case.program)
    program, cluster = traced.read(), parse_cluster(case.cluster)
    limit = None
    if case.tight is not None:
        share = state_bytes(program, traced.roles) / cluster.num_devices
        limit = int(case.tight * share)
    for level in levels:
        before_s = cpu_s()
        options = Options(
            level=level,
            memory_limit_bytes=limit,
            time_limit_s=o3_seconds if level == "O3" else None,
        )
        plan: Plan | None = None
        try:
            plan = compile_plan(program, traced.roles, cluster, options=options)
        except TepdistError as error:
            print(f"{case.name} at {level}: {error.problem}", file=sys.stderr)
        yield row_of(case, level, plan, cpu_s=cpu_s() - before_s)


def row_of(case: Case, level: str, plan: Plan | None, *, cpu_s: float) -> Row:
    """What a search came to."""
    if plan is None:
        return Row(case.name, level, cpu_s, cpu_s, {}, None, None, "none")
    found = plan.search
    return Row(
        case=case.name,
        level=level,
        search_s=found.seconds,
        cpu_s=cpu_s,
        phases=dict(found.phases),
        cost_s=found.cost_s,
        lower_bound_s=found.lower_bound_s,
        mesh="x".join(str(size) for size in plan.stages[0].mesh.shape),
    )


def state_bytes(program: Program, roles: Roles) -> int:
    """Size of the state [B]."""
    return sum(
        program.values[value].bytes_
        for value, role in zip(program.arguments, roles.arguments, strict=True)
        if role.role is Role.STATE
    )


def cpu_s() -> float:
    """Processor time of this process so far [s]."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


HEAD = f"{'case':70} at  {'search':>8} {'cpu':>8} {'cost':>12} {'gap':>6}  mesh, phases"


def text_of(row: Row) -> str:
    """A line of the table."""
    phases = " ".join(f"{name} {seconds:.2f}" for name, seconds in row.phases.items())
    cost = "nothing fits" if row.cost_s is None else f"{row.cost_s * 1e3:9.4f} ms"
    return (
        f"{row.case:70} {row.level} {row.search_s:7.2f}s {row.cpu_s:7.2f}s "
        f"{cost:>12} {row.gap:6.1%}  {row.mesh}: {phases}"
    )


def misses(rows: Sequence[Row]) -> list[str]:
    """What one case misses of what is asked."""
    at = {row.level: row for row in rows}
    texts = []
    if "O1" in at and at["O1"].search_s > MOST_O1_S:
        texts.append(f"{at['O1'].case}: O1 searched for {at['O1'].search_s:.1f} s")
    known = [(row.level, row.cost_s or float("inf")) for row in rows]
    texts += [
        f"{rows[0].case}: {level} is {cost / lower - 1:.2%} worse than {other}"
        for (other, lower), (level, cost) in itertools.pairwise(known)
        if cost > lower * (1 + ROUNDING)
    ]
    solved, best = at.get("O2"), at.get("O3")
    if solved is not None and solved.cost_s is not None and solved.gap > MOST_GAP:
        if best is None or best.cost_s is None:
            texts.append(f"{solved.case}: O2's gap is {solved.gap:.1%}")
        elif solved.cost_s > best.cost_s * (1 + MOST_GAP):
            more = solved.cost_s / best.cost_s - 1
            texts.append(f"{solved.case}: O2 is {more:.1%} worse than O3")
        elif best.gap > MOST_GAP:
            texts.append(
                f"{solved.case}: gaps of {solved.gap:.1%} and {best.gap:.1%}, "
                "O3 finds nothing better"
            )
    return texts


if __name__ == "__main__":
    main()
