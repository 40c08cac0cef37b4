"""From an assignment of the network to the sharding of every value and operand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tepdist.analysis.groups import GroupTensor, Member
from tepdist.analysis.nodes import BARRIER
from tepdist.program.graph import Op, Program
from tepdist.program.state import lies_as
from tepdist.search.arrangements import Strategy
from tepdist.search.problem import Problem
from tepdist.search.strategies import sharding_of
from tepdist.search.structure import Structure
from tepdist.sharding import Mesh, Sharding


@dataclass(frozen=True, slots=True)
class Decoded:
    """Shardings as a `Stage` states them."""

    values: tuple[Sharding, ...]
    operands: tuple[tuple[Sharding, ...], ...]
    results: tuple[Sharding, ...]


def strategy_of(
    structure: Structure, problem: Problem, assignment: Sequence[int], *, group: int
) -> Strategy:
    """The strategy of a group under an assignment."""
    variable = structure.variable_of[group]
    return problem.spaces[variable].strategies[assignment[variable]]


def decode(
    structure: Structure, problem: Problem, assignment: Sequence[int]
) -> Decoded:
    """Shardings of all values, operands and results of the whole program.

    Args:
        structure: Of the program.
        problem: Of the mesh.
        assignment: Value of each variable.
    """
    program, mesh = structure.program, problem.pricing.mesh
    # Equal shardings are one object, so that who compares them rarely has to look.
    same: dict[Sharding, Sharding] = {}
    replicated = [Sharding.replicated(rank) for rank in range(_max_rank(program) + 1)]
    same.update(zip(replicated, replicated, strict=True))
    values = [replicated[len(value.shape)] for value in program.values]
    operands: dict[int, tuple[Sharding, ...]] = {}
    # Groups that share a variable have the same members and tensors, in one order.
    known: dict[tuple[int, int], tuple[Sharding, ...]] = {}
    for index, group in enumerate(structure.groups):
        variable = structure.variable_of[index]
        strategy = strategy_of(structure, problem, assignment, group=index)
        if (variable, -1) not in known:
            known[variable, -1] = tuple(
                same.setdefault(sharding, sharding)
                for sharding in (
                    sharding_of(strategy, tensor, mesh) for tensor in group.outputs
                )
            )
        for tensor, sharding in zip(group.outputs, known[variable, -1], strict=True):
            values[tensor.value] = sharding
        for position, member in enumerate(group.members):
            op = structure.nodes[member.node].op
            if op is None:
                continue
            if (variable, position) not in known:
                known[variable, position] = tuple(
                    same.setdefault(sharding, sharding)
                    for sharding in wanted_operands(
                        program.ops[op], member, strategy, mesh=mesh
                    )
                )
            operands[op] = known[variable, position]
    wanted = [
        _operands(op, operands, values, program=program, replicated=replicated)
        for op in program.ops
    ]
    folded = structure.folded
    lies = tuple([values[value] for value in folded.values.tolist()])
    return Decoded(
        values=lies,
        operands=tuple([wanted[op] for op in folded.ops.tolist()]),
        results=tuple(
            lies[value] for value in lies_as(folded.whole, folded.whole_roles)
        ),
    )


def _max_rank(program: Program) -> int:
    return max((len(value.shape) for value in program.values), default=0)


def _operands(
    op: Op,
    operands: Mapping[int, tuple[Sharding, ...]],
    values: Sequence[Sharding],
    *,
    program: Program,
    replicated: Sequence[Sharding],
) -> tuple[Sharding, ...]:
    if op.kind in ("stablehlo.while", BARRIER):
        return tuple(values[result] for result in op.results)
    if op.rule is not None and op.index in operands:
        return operands[op.index]
    return tuple(replicated[len(program.values[value].shape)] for value in op.operands)


def wanted_operands(
    op: Op, member: Member, strategy: Strategy, *, mesh: Mesh
) -> tuple[Sharding, ...]:
    """How an op of a group wants its operands."""
    if op.rule is None:
        return ()
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
        wanted.append(sharding_of(strategy, tensor, mesh))
    return tuple(wanted)
