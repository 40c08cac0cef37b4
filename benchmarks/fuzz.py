"""Random programs on random meshes under two plans each, against one device.

    python benchmarks/fuzz.py --programs 200 --seed 0

Each batch of programs runs in a process of its own: what aborts one ends that batch
only, and is reported by name.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from tests.generated.programs import Case

    from tepdist.plans.types import Plan

ROOT = Path(__file__).resolve().parents[1]
PROGRAM_TIMEOUT_S = 300
NUM_DEVICES = 16
# What a worker says of a program that one device has run.
ONE_DEVICE = "one device"


def main() -> int:
    options = _options()
    if options.worker:
        return _work(options)
    failures = 0
    start = options.seed
    end = options.seed + options.programs
    while start < end:
        count = min(options.batch, end - start)
        lines, status = _batch(start, count, options)
        done = sum(line.startswith(("ok ", "FAIL ")) for line in lines)
        failures += sum(line.startswith("FAIL ") for line in lines)
        if status and done < count:
            # The process died or hung in the program after the last that it reported.
            is_ours = lines and lines[-1].startswith(ONE_DEVICE)
            verdict = "FAIL" if is_ours else "skip, one device fails:"
            print(f"{verdict} seed {start + done}: the process ended with {status}")
            failures += bool(is_ours)
            done += 1
        start += done if done < count else count
    print(f"{options.programs} programs, {failures} failures")
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument(
        "--steps",
        default="any",
        choices=("any", "common", "rare", "control", "placed", "models"),
    )
    parser.add_argument("--mesh", help="one mesh for all, e.g. 2x4")
    parser.add_argument("--bytes", action="store_true", help="compare payloads too")
    parser.add_argument("--traceback", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _batch(
    start: int, count: int, options: argparse.Namespace
) -> tuple[list[str], int]:
    """Runs programs in another process; its lines and exit status."""
    command = [sys.executable, __file__, "--worker", f"--seed={start}"]
    command += [f"--programs={count}", f"--steps={options.steps}"]
    command += [f"--mesh={options.mesh}"] if options.mesh else []
    command += ["--bytes"] if options.bytes else []
    command += ["--traceback"] if options.traceback else []
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(NUM_DEVICES),
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
    }
    lines = []
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while True:
            watch = threading.Timer(PROGRAM_TIMEOUT_S, process.kill)
            watch.start()
            line = process.stdout.readline().rstrip()
            watch.cancel()
            if not line:
                break
            lines.append(line)
            if not line.startswith(("ok ", ONE_DEVICE)):
                print(line, flush=True)
    return lines, process.returncode


def _work(options: argparse.Namespace) -> int:
    """Runs programs here, a line for each."""
    for seed in range(options.seed, options.seed + options.programs):
        began = time.perf_counter()
        try:
            problems = _problems(seed, options)
        except Exception as error:
            if options.traceback:
                traceback.print_exc()
            text = " ".join(str(error).split())[:400]
            problems = [f"{type(error).__name__}: {text}"]
        verdict = "FAIL" if problems else "ok"
        seconds = time.perf_counter() - began
        print(
            f"{verdict} seed {seed} {seconds:.1f} s",
            *problems,
            sep="\n    ",
            flush=True,
        )
    return 0


def _problems(seed: int, options: argparse.Namespace) -> list[str]:
    import numpy as np
    from tests.generated import laws

    from tepdist.runtime.local import Executable

    rng = np.random.default_rng((seed, 7))
    mesh = options.mesh or str(rng.choice(laws.MORE_MESHES))
    case = _case(seed, options.steps, mesh)
    wanted = laws.one_device_results(case)
    print(ONE_DEVICE, flush=True)
    traced, best = laws.plan_case(case, mesh)
    plans, problems = {"best": best}, []
    if seed % 2:
        plans["random"] = laws.odd_plan(best, seed)
    else:
        asked, verdict = _asked_plan(case, best, rng)
        if asked is not None:
            plans[verdict] = asked
        elif verdict:
            problems.append(f"{case.name}, {verdict}")
    for name, plan in plans.items():
        executable = Executable(plan)
        got = laws.planned_results(traced, executable, case)
        found = list(laws.differences(case, wanted, got))
        if options.bytes and plan is best:
            found += laws.byte_differences(plan, executable)
        problems += [f"{case.name}, {name} plan on {mesh}: {text}" for text in found]
    return problems


def _asked_plan(
    case: "Case", best: "Plan", rng: "np.random.Generator"
) -> tuple["Plan | None", str]:
    """A plan with random options and their text; None and what is wrong, if any."""
    from tests.generated import laws

    from tepdist.errors import NoPlanFits, OptionsError

    options = laws.random_options(case, best, rng)
    try:
        _, plan = laws.plan_as_asked(case, best.cluster.name, options)
    except (NoPlanFits, OptionsError) as error:
        is_asked_for = options.memory_limit_bytes or options.constraints or options.zero
        return None, "" if is_asked_for else f"{options}: {error}"
    limit = options.memory_limit_bytes
    if limit is not None and plan.stages[0].memory.peak > limit:
        return None, f"{options}: the plan is above its limit"
    return plan, str(options)


def _case(seed: int, steps: str, mesh: str) -> "Case":
    from tests.generated.models import all_cases
    from tests.generated.programs import random_case

    if steps == "models":
        cases = all_cases()
        return cases[seed % len(cases)]
    return random_case(seed, steps=steps, mesh=mesh)


if __name__ == "__main__":
    sys.exit(main())
