"""ZeRO by its stage: what of the state is sharded where its gradient is summed.

The axes over which a gradient is summed are those of data parallelism. At any stage
there must be some: each gradient that can be summed over an axis is, unless it is cut
between what shares nothing, as experts do. Stage 0 keeps state and gradients whole
over these axes, stage 1 shards what only the optimizer reads, stage 2 the gradients
too, and stage 3 the parameters as well. "Sharded" is: over as many of these axes as
the tensor's extents allow.

Source: Rajbhandari et al., ZeRO, SC 2020.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.analysis.groups import Group, GroupTensor
from tepdist.analysis.phases import Phase, read_before_update
from tepdist.program.sums import SCATTER
from tepdist.program.updates import way_back
from tepdist.search.shared import Array
from tepdist.search.strategies import Space
from tepdist.search.structure import Structure

ZERO_STAGES = range(4)
_OPTIMIZER, _GRADIENTS, _PARAMETERS = 1, 2, 3


@dataclass(frozen=True, slots=True)
class _Gradient:
    """A state argument and an op that makes its gradient, by their groups.

    Attributes:
        state: Variable and tensor of the argument.
        summed: Variable and tensor of the gradient.
        group: That makes the gradient.
        op: That makes it.
        is_parameter: Whether more than the optimizer reads the argument.
    """

    state: tuple[int, GroupTensor]
    summed: tuple[int, GroupTensor]
    group: int
    op: int
    is_parameter: bool


def scatters_gradients(stage: int | None) -> bool:
    """Whether a stage of ZeRO, None for none, scatters sums on any platform."""
    return stage is not None and stage >= _GRADIENTS


def zero_spaces(
    structure: Structure, spaces: Sequence[Space], stage: int
) -> tuple[Space, ...]:
    """What a stage of ZeRO leaves of the spaces, whatever goes with it.

    Message passing has no way with values that each partner rules out.

    Args:
        structure: Of the program.
        spaces: Strategies of each variable.
        stage: 0 to 3.
    """
    found = list(_data_parallel(structure, spaces))
    is_settled = False
    while not is_settled:
        is_settled = True
        for i, j, costs in tuple(zero_costs(structure, found, stage)):
            if costs.shape != (len(found[i]), len(found[j])):
                continue  # of what has changed since; looked at in the next round
            free = np.isfinite(costs)
            ends = (
                (i, np.logical_or.reduce(free, axis=1)),
                (j, np.logical_or.reduce(free, axis=0)),
            )
            if i == j:
                ends = ((i, free.diagonal()),) * 2
            for variable, each in dict(ends).items():
                if each.any() and not each.all():
                    found[variable] = found[variable].only(each)
                    is_settled = False
    return tuple(found)


def _data_parallel(structure: Structure, spaces: Sequence[Space]) -> tuple[Space, ...]:
    """The spaces without strategies that sum a gradient over no axis.

    Those stay of a gradient that no strategy sums, or that is cut along what all
    operands and the result share; and of a scatter beside a product, the gradients of
    a tied embedding, which need not both be summed.

    Args:
        structure: Of the program.
        spaces: Strategies of each variable.
    """
    found = list(spaces)
    gradients = tuple(_gradients(structure))
    parts = Counter(gradient.state[1].value for gradient in gradients)
    for gradient in gradients:
        is_part = parts[gradient.state[1].value] > 1
        if is_part and structure.program.ops[gradient.op].kind == SCATTER:
            continue
        if structure.phases[gradient.op] is Phase.UPDATE:  # statistics of one
            continue
        variable, _ = gradient.summed
        space, group = spaces[variable], structure.groups[gradient.group]
        is_summed = [bool(axes) for axes in _summed_over(space, group.reduction)]
        if any(is_summed):
            is_apart = (space.before[:, _shared_factors(group)] > 1).any(axis=1)
            found[variable] = space.only(np.array(is_summed) | is_apart)
    return tuple(found)


def _summed_over(space: Space, reduction: frozenset[int]) -> list[frozenset[int]]:
    """Axes over which each strategy sums."""
    return [
        frozenset(axis for axis, factor in enumerate(s.before) if factor in reduction)
        for s in space.strategies
    ]


def _shared_factors(group: Group) -> list[int]:
    """Factors of the result and of every operand of a product; of no other op."""
    operands = [tensor for tensor in group.inputs if tensor.member == 0]
    if len(operands) < 2:
        return []
    tensors = (*operands, *(tensor for tensor in group.outputs if tensor.member == 0))
    factors = [{factor for dim in t.dims for factor in dim} for t in tensors]
    return sorted(set[int]().union(*factors).intersection(*factors))


def zero_costs(
    structure: Structure, spaces: Sequence[Space], stage: int
) -> Iterator[tuple[int, int, Array]]:
    """Infinite costs of what a stage of ZeRO rules out.

    Args:
        structure: Of the program.
        spaces: Strategies of each variable.
        stage: 0 to 3.

    Yields:
        Two variables, which may be one, and the cost of each pair of their values.
    """
    for gradient in _gradients(structure):
        variable, tensor = gradient.summed
        space = spaces[variable]
        reduction = structure.groups[gradient.group].reduction
        axes = _summed_over(space, reduction)
        sets = sorted(set(axes), key=sorted)
        rows = [sets.index(each) for each in axes]
        kind = _PARAMETERS if gradient.is_parameter else _OPTIMIZER
        held_variable, held = gradient.state
        held_used = _used(spaces[held_variable], held)
        table = _ruled_out(sets, held_used, shards=stage >= kind)
        yield variable, held_variable, table[rows]
        if stage == 0 or stage >= _GRADIENTS:
            table = _ruled_out(sets, _used(space, tensor), shards=stage > 0)
            yield variable, variable, table[rows]


def _ruled_out(
    sets: Sequence[frozenset[int]], used: Sequence[frozenset[int]], *, shards: bool
) -> Array:
    """Infinite where too few, or any, of a row's axes are used, [rows, columns]."""
    counts = np.array([[len(axes & each) for each in used] for axes in sets], np.intp)
    wanted = counts.max(axis=1, keepdims=True) if shards else np.zeros((len(sets), 1))
    return np.where(counts == wanted, 0.0, np.inf)


def _used(space: Space, tensor: GroupTensor) -> list[frozenset[int]]:
    """Axes that cut a tensor under each strategy."""
    shardings, index = space.lies(tensor)
    names = space.mesh.names
    found = [frozenset(names.index(axis) for axis in s.axes) for s in shardings]
    return [found[at] for at in index]


def _gradients(structure: Structure) -> Iterator[_Gradient]:
    program = structure.program
    views = {
        tensor.value: (group, tensor)
        for group, described in enumerate(structure.groups)
        for tensor in described.outputs
    }
    read = read_before_update(program, structure.phases)
    for argument, result in structure.next_values.items():
        if argument not in views:
            continue
        state_group, state = views[argument]
        for op in sorted(way_back(program, result).reducing):
            summed = next((v for v in program.ops[op].results if v in views), None)
            if summed is None:
                continue
            group, tensor = views[summed]
            if tensor.member != 0:  # another op of its group is the one that reduces
                continue
            yield _Gradient(
                (structure.variable_of[state_group], state),
                (structure.variable_of[group], tensor),
                group,
                op,
                argument in read,
            )
