"""What else a value could be: its other shardings and what each would cost.

The plan's own mesh is searched again with everything as the plan has it; then the
variable that decides the value is held at another sharding while all others follow by
descent. So a cost is what a near plan with that choice would cost, an upper bound.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.folding import Folded
from tepdist.analysis.groups import Group
from tepdist.cost.pricing import Pricing
from tepdist.errors import OptionsError
from tepdist.plans.explain import Alternative
from tepdist.plans.types import Plan, Stage
from tepdist.search.arrangements import Strategy
from tepdist.search.constraints import matched_values, wanted_shardings
from tepdist.search.decode import wanted_operands
from tepdist.search.descent import Descent
from tepdist.search.network import Network, unlimited
from tepdist.search.problem import Builder, Problem
from tepdist.search.shared import Array
from tepdist.search.structure import Structure, build_structure


def find_alternatives(plan: Plan, name: str) -> tuple[Alternative, ...]:
    """Other shardings of a value, cheapest first.

    Args:
        plan: Of one stage.
        name: Of an argument or value that has a sharding of its own.

    Returns:
        Empty for scalars and for values that are made anew wherever they are used.
    """
    matched = matched_values(plan.program, plan.options.constraints)
    structure = build_structure(
        plan.program, plan.roles, matched, device=plan.cluster.device
    )
    folded = structure.folded
    stage = _folded_stage(plan, folded)
    matched = folded.kept(matched)
    found = _decider(structure, plan, name)
    if found is None:
        return ()
    group, output = found
    tensor = structure.groups[group].outputs[output]
    wanted = wanted_shardings(
        structure.program,
        plan.options.constraints,
        {v: pattern for v, pattern in matched.items() if v != tensor.value},
        mesh=stage.mesh,
    )
    pricing = Pricing(plan.cluster, stage.mesh)
    problem = Builder(structure, pricing, wanted, zero=plan.options.zero).build()
    chosen = _assignment(structure, problem, stage)
    variable = structure.variable_of[group]
    shardings, index = problem.spaces[variable].lies(tensor)
    here = problem.network.cost(chosen)
    others = []
    for number, sharding in enumerate(shardings):
        if sharding == stage.values[tensor.value]:
            continue
        values = np.flatnonzero(index == number)
        cost = _held_cost(problem.network, chosen, variable, values=values)
        others.append(Alternative(sharding, cost - here))
    return tuple(sorted(others, key=lambda other: other.added_s))


def _folded_stage(plan: Plan, folded: Folded) -> Stage:
    """The plan's stage, with shardings of what stands for its program."""
    (stage,) = plan.stages
    return replace(
        stage,
        values=tuple(stage.values[value] for value in folded.kept_values.tolist()),
        operands=tuple(stage.operands[op] for op in folded.kept_ops.tolist()),
    )


def _decider(structure: Structure, plan: Plan, name: str) -> tuple[int, int] | None:
    """Group and output that define the value of this name."""
    by_result = {
        role.name: value
        for role, value in zip(plan.roles.results, plan.program.results, strict=True)
    }
    by_value = {value.name: value.index for value in plan.program.values}
    value = by_value.get(name, by_result.get(name))
    if value is None:
        raise OptionsError(f"the plan has no value named {name!r}")
    meant = int(structure.folded.values[value])
    for index, group in enumerate(structure.groups):
        for position, tensor in enumerate(group.outputs):
            if tensor.value == meant:
                return index, position
    return None


def _assignment(
    structure: Structure, problem: Problem, stage: Stage
) -> tuple[int, ...]:
    """The assignment that a stage's shardings mean."""
    assignment = []
    for variable, group in enumerate(structure.deciders):
        space, described = problem.spaces[variable], structure.groups[group]
        fits = np.ones(len(space), np.bool_)
        for tensor in described.outputs:
            shardings, index = space.lies(tensor)
            wanted = stage.values[tensor.value]
            fits &= np.array([sharding == wanted for sharding in shardings])[index]
        assignment.append(
            next(
                int(value)
                for value in np.flatnonzero(fits)
                if _wants(structure, described, space.strategies[value], stage=stage)
            )
        )
    return tuple(assignment)


def _wants(
    structure: Structure, group: Group, strategy: Strategy, *, stage: Stage
) -> bool:
    """Whether a group's ops want their operands under a strategy as a stage says."""
    for member in group.members:
        op = structure.nodes[member.node].op
        if op is None:
            continue
        described = structure.program.ops[op]
        wanted = wanted_operands(described, member, strategy, mesh=stage.mesh)
        if wanted != stage.operands[op]:
            return False
    return True


def _held_cost(
    network: Network,
    chosen: Sequence[int],
    variable: int,
    *,
    values: NDArray[np.intp],
) -> float:
    """Least cost found with one variable held to some of its values."""
    unary = list(network.unary)
    forbidden = np.full(len(unary[variable]), np.inf)
    forbidden[values] = 0.0
    held: Array = unary[variable] + forbidden
    unary[variable] = held
    start = list(chosen)
    start[variable] = int(values[0])
    bent = unlimited(unary, network.binary, network.shared)
    return bent.cost(Descent(bent).improve(start))
