"""Reads the format of the ASPLOS 2025 contest on intra-operator parallelism.

One JSON file, gzipped or not: `problem.nodes` with `intervals`, `costs` and `usages`,
`problem.edges` with `nodes` and `costs` (flattened, row-major), and
`problem.usage_limit`. Costs of 10^18 and above forbid.

Source:
    github.com/google/iopddl (Apache-2.0).
"""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from tepdist.solver.problem import Array, Problem, Usage

_FORBIDDEN = 1e18


def read(path: Path) -> Problem:
    """The problem in a file."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    problem = json.loads(data)["problem"]
    nodes = problem["nodes"]
    unary = tuple(_costs(costs) for costs in nodes["costs"])
    usages = []
    num_times = 0
    for node, interval in enumerate(nodes["intervals"]):
        start, end = interval or (0, 0)
        if end > start:
            amounts = np.array(nodes["usages"][node], float)
            usages.append(Usage(node, start, end, amounts))
            num_times = max(num_times, end)
    limit = problem.get("usage_limit")
    limits = np.full(num_times, np.inf if limit is None else float(limit))
    return Problem(unary, _edges(problem["edges"], unary), tuple(usages), limits)


def _costs(costs: list[Any]) -> Array:
    array = np.array(costs, float)
    array[array >= _FORBIDDEN] = np.inf
    return array


def _edges(
    edges: dict[str, Any], unary: tuple[Array, ...]
) -> dict[tuple[int, int], Array]:
    tables: dict[tuple[int, int], Array] = {}
    for (i, j), costs in zip(edges["nodes"], edges["costs"], strict=True):
        table = _costs(costs).reshape(len(unary[i]), len(unary[j]))
        if i > j:
            i, j, table = j, i, table.T
        tables[i, j] = tables[i, j] + table if (i, j) in tables else table
    return tables
