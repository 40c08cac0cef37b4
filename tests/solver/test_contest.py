"""The contest's format, and the benchmark that reads it."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tepdist.solver.contest import read

ROOT = Path(__file__).parents[2]
BENCHMARK = ROOT / "benchmarks" / "contest.py"
FORBIDDEN = 10**18


def layers(num_layers: int, *, seed: int = 0) -> dict:
    """Layers of operators in the contest's format, with memory that binds.

    Each layer has a weight, live throughout, and two operators, live while the next
    one runs; the second must take the first's layout.
    """
    random = np.random.default_rng(seed)
    nodes: dict[str, list] = {"intervals": [], "costs": [], "usages": []}
    edges: dict[str, list] = {"nodes": [], "costs": []}

    def add(interval: list[int], costs: list[int], usages: list[int]) -> int:
        nodes["intervals"].append(interval)
        nodes["costs"].append(costs)
        nodes["usages"].append(usages)
        return len(nodes["costs"]) - 1

    def join(i: int, j: int, costs: np.ndarray) -> None:
        edges["nodes"].append([i, j])
        edges["costs"].append([int(cost) for cost in costs.ravel()])

    before = None
    for layer in range(num_layers):
        step = 2 * layer
        weight = add([0, 2 * num_layers], [0, 0, 0], [400, 200, 100])
        first = add([step, step + 2], [10, 30, FORBIDDEN, 70], [800, 400, 200, 100])
        second = add([], [5, 6, 7, 8], [1, 1, 1, 1])
        join(weight, first, random.integers(0, 500, (3, 4)))
        join(second, first, np.where(np.eye(4), 0, FORBIDDEN))
        join(first, second, np.zeros((4, 4)))
        if before is not None:
            join(before, first, random.integers(0, 100, (4, 4)))
        before = second
    limit = 110 * num_layers + 600
    return {"problem": {"nodes": nodes, "edges": edges, "usage_limit": limit}}


def judge(data: dict, assignment: tuple[int, ...]) -> tuple[int, int]:
    """Cost and peak usage, as the contest defines them."""
    nodes, edges = data["problem"]["nodes"], data["problem"]["edges"]
    cost = sum(c[k] for c, k in zip(nodes["costs"], assignment, strict=True))
    for (i, j), costs in zip(edges["nodes"], edges["costs"], strict=True):
        width = len(nodes["costs"][j])
        cost += costs[assignment[i] * width + assignment[j]]
    usage: dict[int, int] = {}
    for node, interval in enumerate(nodes["intervals"]):
        for moment in range(*interval) if interval else ():
            amount = nodes["usages"][node][assignment[node]]
            usage[moment] = usage.get(moment, 0) + amount
    return cost, max(usage.values())


@pytest.mark.parametrize("name", ["plain.json", "zipped.json.gz"])
def test_file_is_read_as_the_contest_judges(tmp_path, name):
    data = layers(3)
    text = json.dumps(data).encode()
    file = tmp_path / name
    file.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    problem = read(file)
    random = np.random.default_rng(1)
    for _ in range(50):
        assignment = tuple(int(random.integers(len(c))) for c in problem.unary)
        cost, peak = judge(data, assignment)
        if cost >= FORBIDDEN:
            assert problem.cost(assignment) == np.inf
        else:
            assert problem.cost(assignment) == cost
        assert problem.profile(assignment).max() == peak


def run(files: list[Path], seconds: float) -> tuple[list[dict], float]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, BENCHMARK, *files, "--seconds", str(seconds), "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    took = time.monotonic() - began
    return json.loads(done.stdout.splitlines()[-1]), took


def test_benchmark_prints_what_it_found(tmp_path):
    files = [tmp_path / f"{count}.json" for count in (2, 40)]
    for file, count in zip(files, (2, 40), strict=True):
        file.write_text(json.dumps(layers(count)), encoding="utf-8")
    answers, took = run(files, seconds=10)
    assert took < 25
    assert [answer["file"] for answer in answers] == ["2.json", "40.json"]
    for answer in answers:
        assert set(answer) == {"file", "cost", "feasible", "seconds", "lower_bound"}
        assert answer["feasible"]
        assert answer["lower_bound"] <= answer["cost"]
        assert answer["seconds"] < 12


def test_benchmark_keeps_to_a_short_time(tmp_path):
    file = tmp_path / "large.json"
    file.write_text(json.dumps(layers(1500)), encoding="utf-8")
    (answer,), _ = run([file], seconds=4)
    assert answer["feasible"]
    assert answer["seconds"] < 6  # a loaded machine
