"""Every way to shard each op of a program alone, the others following suit."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tepdist.cost.pricing import Pricing
from tepdist.plans.types import Plan
from tepdist.search.descent import Descent
from tepdist.search.memory import MemoryModel
from tepdist.search.network import Network
from tepdist.search.problem import Builder
from tepdist.search.staging import make_stage
from tepdist.search.structure import build_structure


def plans_by_strategy(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Plans for the same program and mesh, each with what it shards first.

    Each group of ops takes each of its strategies once; the rest is the best that
    descent finds around it.
    """
    structure = build_structure(
        plan.program, plan.roles, {}, device=plan.cluster.device
    )
    problem = Builder(structure, Pricing(plan.cluster, plan.stages[0].mesh), {}).build()
    memory = MemoryModel(structure, problem)
    seen = set()
    for variable, group in enumerate(structure.deciders):
        members = structure.groups[group].members
        ops = [structure.nodes[member.node].op for member in members]
        kinds = {plan.program.ops[op].kind for op in ops if op is not None}
        for value, strategy in enumerate(problem.spaces[variable].strategies):
            if not kinds or not value:
                continue
            assignment = best_around(problem.network, variable, value)
            if assignment in seen:
                continue
            seen.add(assignment)
            stage = make_stage(structure, problem, assignment, memory=memory)
            label = f"{sorted(kinds)} {strategy.before} -> {strategy.after}"
            yield label, replace(plan, stages=(stage,))


def best_around(network: Network, variable: int, value: int) -> tuple[int, ...]:
    """A good assignment in which one variable has this value."""
    only = np.full(len(network.unary[variable]), np.inf)
    only[value] = 0.0
    unary = list(network.unary)
    unary[variable] = only
    start = [0] * len(unary)
    start[variable] = value
    assignment = Descent(replace(network, unary=tuple(unary))).improve(start)
    assert assignment[variable] == value
    return assignment
