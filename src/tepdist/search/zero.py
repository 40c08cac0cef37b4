"""ZeRO by its stage: what of the state is sharded where its gradient is summed.

The axes over which a gradient is summed are those of data parallelism. Stage 0 keeps
state whole over them, stage 1 shards what only the optimizer reads, stage 2 the
gradients too, and stage 3 the parameters as well.
"Sharded" is: over as many of these axes as the tensor's extents allow.

Source: Rajbhandari et al., ZeRO, SC 2020.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.analysis.groups import GroupTensor
from tepdist.analysis.phases import Phase
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
        is_parameter: Whether more than the optimizer reads the argument.
    """

    state: tuple[int, GroupTensor]
    summed: tuple[int, GroupTensor]
    group: int
    is_parameter: bool


def scatters_gradients(stage: int | None) -> bool:
    """Whether a stage of ZeRO, None for none, scatters sums on any platform."""
    return stage is not None and stage >= _GRADIENTS


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
        axes = [
            frozenset(a for a, f in enumerate(s.before) if f in reduction)
            for s in space.strategies
        ]
        sets = sorted(set(axes), key=sorted)
        rows = [sets.index(each) for each in axes]
        kind = _PARAMETERS if gradient.is_parameter else _OPTIMIZER
        held_variable, held = gradient.state
        held_used = _used(spaces[held_variable], held)
        table = _ruled_out(sets, held_used, shards=stage >= kind)
        yield variable, held_variable, table[rows]
        if stage >= _GRADIENTS:
            table = _ruled_out(sets, _used(space, tensor), shards=True)
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
    read = {
        value
        for op in program.ops
        if structure.phases[op.index] is not Phase.UPDATE
        for value in op.operands
    }
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
                argument in read,
            )
