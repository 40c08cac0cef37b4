"""From an assignment of the network to the sharding of every value and operand."""

from collections.abc import Sequence
from dataclasses import dataclass

from tepdist.analysis.groups import GroupTensor, Member
from tepdist.analysis.nodes import BARRIER, CONTROL_FLOW
from tepdist.program.graph import Op
from tepdist.search.problem import Problem, Structure
from tepdist.search.strategies import Strategy, sharding_of
from tepdist.sharding import Sharding


@dataclass(frozen=True, slots=True)
class Decoded:
    """Shardings as a `Stage` states them."""

    values: tuple[Sharding, ...]
    operands: tuple[tuple[Sharding, ...], ...]
    results: tuple[Sharding, ...]


def strategy_of(problem: Problem, assignment: Sequence[int], group: int) -> Strategy:
    """The strategy of a group under an assignment."""
    variable = problem.variable_of[group]
    return problem.strategies[variable][assignment[variable]]


def decode(
    structure: Structure,
    problem: Problem,
    assignment: Sequence[int],
    replaced: dict[int, int],
) -> Decoded:
    """Shardings of all values, operands and results.

    Args:
        structure: Of the program.
        problem: Of the mesh.
        assignment: Value of each variable.
        replaced: For each result that replaces a state argument, its value index.
    """
    program = structure.program
    values = [Sharding.replicated(len(value.shape)) for value in program.values]
    member_of: dict[int, tuple[Member, Strategy]] = {}
    for index, group in enumerate(structure.groups):
        strategy = strategy_of(problem, assignment, index)
        for tensor in group.outputs:
            values[tensor.value] = sharding_of(strategy, tensor, problem.pricing.mesh)
        for member in group.members:
            op = structure.nodes[member.node].op
            if op is not None:
                member_of[op] = (member, strategy)
    operands = tuple(
        _operands(structure, problem, op, member_of, values) for op in program.ops
    )
    results = tuple(values[replaced.get(value, value)] for value in program.results)
    return Decoded(tuple(values), operands, results)


def _operands(
    structure: Structure,
    problem: Problem,
    op: Op,
    member_of: dict[int, tuple[Member, Strategy]],
    values: Sequence[Sharding],
) -> tuple[Sharding, ...]:
    ranks = [len(structure.program.values[value].shape) for value in op.operands]
    if op.kind in ("stablehlo.while", BARRIER):
        return tuple(values[result] for result in op.results)
    if op.kind in CONTROL_FLOW or op.index not in member_of or op.rule is None:
        return tuple(Sharding.replicated(rank) for rank in ranks)
    member, strategy = member_of[op.index]
    wanted = []
    for value, dims in zip(op.operands, op.rule.operands, strict=True):
        mapped = tuple(
            tuple(
                factor
                for factor in (member.factors[own] for own in factors)
                if factor is not None
            )
            for factors in dims
        )
        tensor = GroupTensor(value, mapped, member.reduced, 0)
        wanted.append(sharding_of(strategy, tensor, problem.pricing.mesh))
    return tuple(wanted)
