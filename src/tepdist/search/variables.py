"""What variables decide about, as far as they are alike: found once for all meshes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tepdist.analysis.groups import Group, GroupTensor
from tepdist.analysis.nodes import Node
from tepdist.program.graph import Op, Program, Value
from tepdist.program.rules import SCATTERING
from tepdist.search.arrangements import Choices
from tepdist.search.strategies import choices_of
from tepdist.search.work import Work


@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """What a variable's groups compute and reduce. Compared by identity.

    Attributes:
        sizes: Of the factors.
        choices: What the strategies depend on, where partial results are scattered.
        unscattered: The same where they are not.
        work: Of one group.
        count: How many groups there are.
        trips: How often each runs per step.
        op: That the first group starts with, if it is one.
        sums: Results that are reduced, as the group sees them.
    """

    sizes: tuple[int, ...]
    choices: Choices
    unscattered: Choices
    work: Work
    count: float
    trips: int
    op: Op | None
    sums: tuple[tuple[GroupTensor, Value], ...]


def alike_variables(
    program: Program,
    nodes: Sequence[Node],
    groups: Sequence[Group],
    *,
    work: Sequence[Work],
    counts: Sequence[float],
) -> tuple[Variable, ...]:
    """What each variable decides about.

    Args:
        program: Any.
        nodes: Its nodes.
        groups: That each variable decides for first.
        work: Of these; what takes the same time is one object.
        counts: How many groups there are of each.
    """
    known: dict[object, Variable] = {}
    found = []
    for group, own_work, count in zip(groups, work, counts, strict=True):
        root = nodes[group.members[0].node]
        op = None if root.op is None else program.ops[root.op]
        choices = choices_of(group, scatters=True)
        unscattered = replace(choices, results=frozenset())
        is_scattering = op is not None and op.kind in SCATTERING
        variable = Variable(
            sizes=group.sizes,
            choices=choices if is_scattering else unscattered,
            unscattered=unscattered,
            work=own_work,
            count=count,
            trips=root.trips,
            op=op,
            sums=tuple(
                (tensor, program.values[tensor.value])
                for tensor in group.outputs
                if tensor.member == 0 and group.reduction
            ),
        )
        found.append(known.setdefault(_key(variable), variable))
    return tuple(found)


def _key(variable: Variable) -> object:
    """Equal for variables that pay the same for themselves under each strategy.

    But for reductions that the compiler combines: these are known by their ops.
    """
    op = variable.op
    return (
        (variable.sizes, variable.choices, id(variable.work)),
        (variable.count, variable.trips),
        None if op is None or op.body is None else op.index,
        tuple(
            (tensor.dims, tensor.reduced, value.num_elements, value.dtype)
            for tensor, value in variable.sums
        ),
    )
