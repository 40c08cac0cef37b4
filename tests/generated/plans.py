"""Plans that no search would choose: random strategies for every group."""

from dataclasses import replace

import numpy as np

from tepdist.cost.pricing import Pricing
from tepdist.plans.types import Plan
from tepdist.search.memory import MemoryModel
from tepdist.search.problem import Builder, Problem
from tepdist.search.staging import make_stage
from tepdist.search.structure import build_structure


def random_plan(plan: Plan, rng: np.random.Generator) -> Plan:
    """The same program on the same mesh, sharded at random."""
    structure = build_structure(
        plan.program, plan.roles, {}, device=plan.cluster.device
    )
    problem = Builder(structure, Pricing(plan.cluster, plan.stages[0].mesh), {}).build()
    stage = make_stage(
        structure,
        problem,
        _random_assignment(problem, rng),
        memory=MemoryModel(structure, problem),
    )
    return replace(plan, stages=(stage,))


def _random_assignment(problem: Problem, rng: np.random.Generator) -> tuple[int, ...]:
    """Rather sharded than whole; sometimes mostly whole."""
    wholes = rng.random() * 0.5
    return tuple(
        0 if rng.random() < wholes else int(rng.integers(len(costs)))
        for costs in problem.network.unary
    )
