"""The solver on files of the ASPLOS 2025 contest on intra-operator parallelism.

    python benchmarks/contest.py FILE... --seconds 60 [--json]

Prints for each file: cost, feasible or not, seconds (reading included) and a lower
bound. `--seconds` is for each file, reading included. With `--json` the last line is a
list with one object for each file. Ends with 1 if an answer is not feasible.

Files: github.com/google/iopddl (Apache-2.0).
"""

import json
import sys
import time

BEGAN_S = time.monotonic()  # imports count against the first file

from dataclasses import asdict, dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

import click  # noqa: E402

from tepdist.solver.contest import read  # noqa: E402
from tepdist.solver.solve import solve  # noqa: E402

# Kept back for the last step to end and for the answer to be checked.
MARGIN_S = 0.3
MARGIN_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for one file.

    Attributes:
        file: Its name.
        cost: Of the answer; None if it takes something forbidden.
        feasible: Whether nothing forbidden is taken and every limit is kept.
        seconds: From start to answer, reading included [s].
        lower_bound: No feasible answer costs less; None if nothing is known.
    """

    file: str
    cost: float | None
    feasible: bool
    seconds: float
    lower_bound: float | None


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=60.0, show_default=True
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="A list of objects, last line.")
def main(files: tuple[Path, ...], *, seconds: float, seed: int, as_json: bool) -> None:
    """Solves contest files."""
    print(f"{'file':32} {'cost':>20} {'feasible':>8} {'seconds':>8} {'bound':>20}")
    answers = []
    began_s = BEGAN_S
    for file in files:
        answer = _answer(file, began_s, seconds=seconds, seed=seed)
        answers.append(answer)
        began_s = time.monotonic()
        print(
            f"{answer.file:32} {_number(answer.cost):>20} "
            f"{'yes' if answer.feasible else 'NO':>8} {answer.seconds:8.1f} "
            f"{_number(answer.lower_bound):>20}",
            flush=True,
        )
    if as_json:
        print(json.dumps([asdict(answer) for answer in answers]))
    sys.exit(0 if all(answer.feasible for answer in answers) else 1)


def _answer(file: Path, began_s: float, *, seconds: float, seed: int) -> Answer:
    problem = read(file)
    spent_s = time.monotonic() - began_s
    margin_s = MARGIN_S + MARGIN_SHARE * seconds
    left_s = max(0.0, seconds - spent_s - margin_s)
    found = solve(problem, time_limit_s=left_s, seed=seed)
    return Answer(
        file=file.name,
        cost=_finite(found.cost),
        feasible=found.is_feasible,
        seconds=time.monotonic() - began_s,
        lower_bound=_finite(found.lower_bound),
    )


def _finite(cost: float) -> float | None:
    return cost if abs(cost) < float("inf") else None


def _number(cost: float | None) -> str:
    return "none" if cost is None else f"{cost:,.0f}"


if __name__ == "__main__":
    main()
