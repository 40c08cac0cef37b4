"""The SPMD search problem of one mesh: from groups to a cost function network.

Variables are the groups that decide (one for each set of tied layers), their values
the group's strategies. Unary costs are compute and the group's own reductions, binary
costs the reshardings of what one group reads from another, each times how often it
happens. Usage is the memory of what a group defines, at the times that matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tepdist.cost.compute import matmul_flops_per_s
from tepdist.cost.pricing import Pricing
from tepdist.search.network import Network
from tepdist.search.reads import Reads
from tepdist.search.shared import Array
from tepdist.search.strategies import Space, Strategy, strategy_space
from tepdist.search.structure import Structure
from tepdist.search.work import Traffic
from tepdist.sharding import Mesh, Sharding


@dataclass(frozen=True, slots=True)
class Problem:
    """The network of one mesh, without limits, and what its values mean.

    Attributes:
        pricing: Of this mesh.
        spaces: Values of each variable.
        compute: Part of the unary costs that is compute [s].
        network: Costs [s], memory left aside.
    """

    pricing: Pricing
    spaces: tuple[Space, ...]
    compute: tuple[Array, ...]
    network: Network

    def compute_s(self, assignment: Sequence[int]) -> float:
        """Compute of one device per step under an assignment [s]."""
        return sum(
            float(costs[value])
            for costs, value in zip(self.compute, assignment, strict=True)
        )


class Builder:
    """Builds the network of one mesh.

    Attributes:
        spaces: Strategies of each variable that keep to what is wanted.
    """

    def __init__(
        self,
        structure: Structure,
        pricing: Pricing,
        wanted: Mapping[int, Sharding],
    ) -> None:
        """Prepares a build.

        Args:
            structure: Of the program.
            pricing: Of the mesh.
            wanted: Value index to the sharding it must have.
        """
        self._structure = structure
        self._pricing = pricing
        self._wanted = wanted
        self.spaces = self._find_spaces()

    def build(self) -> Problem:
        """The problem; every space must have a strategy."""
        structure, spaces = self._structure, self.spaces
        counts = np.bincount(np.array(structure.variable_of, np.intp))
        compute = tuple(
            self._compute_costs(variable, space) * counts[variable]
            for variable, space in enumerate(spaces)
        )
        unary = [
            costs + self._reduction_costs(variable, spaces[variable]) * counts[variable]
            for variable, costs in enumerate(compute)
        ]
        reads = Reads(structure, self._pricing, spaces)
        return Problem(self._pricing, spaces, compute, reads.network(unary))

    def _find_spaces(self) -> tuple[Space, ...]:
        structure, pricing = self._structure, self._pricing
        scatters = pricing.cluster.fuses_reduce_scatter
        spaces = [
            strategy_space(structure.groups[group], pricing.mesh, scatters=scatters)
            for group in structure.deciders
        ]
        if self._wanted:
            for index, group in enumerate(structure.groups):
                variable = structure.variable_of[index]
                for tensor in group.outputs:
                    if tensor.value in self._wanted:
                        sharding = self._wanted[tensor.value]
                        spaces[variable] = spaces[variable].lying(tensor, sharding)
        return tuple(spaces)

    def _compute_costs(self, variable: int, space: Space) -> Array:
        """Compute of one group under each strategy [s], [num strategies]."""
        work = self._structure.work[variable]
        device = self._pricing.cluster.device
        flops = work.flops / space.before.prod(axis=1)
        core = _traffic(work.core, space)
        fused = _traffic(work.fused, space)
        core_s = np.maximum(
            flops / matmul_flops_per_s(device, work.dtype),
            core / device.memory_bytes_per_s,
        )
        fused_s = fused / device.memory_bytes_per_s
        total: Array = core_s + fused_s + work.kernels * device.launch_s
        return total

    def _reduction_costs(self, variable: int, space: Space) -> Array:
        """A group's own reductions under each strategy [s], [num strategies]."""
        structure = self._structure
        group = structure.groups[structure.deciders[variable]]
        costs = np.zeros(len(space))
        if not group.reduction:
            return costs
        trips = structure.nodes[group.members[0].node].trips
        for tensor in group.outputs:
            if tensor.member != 0:
                continue
            local = structure.program.values[tensor.value].bytes_ / space.shards(tensor)
            for position, strategy in enumerate(space.strategies):
                costs[position] += trips * sum(
                    self._pricing.collective_s(kind, payload, axes)
                    for kind, payload, axes in reductions(
                        strategy, group.reduction, local[position], mesh=space.mesh
                    )
                )
        return costs


def _traffic(traffic: Sequence[Traffic], space: Space) -> Array:
    """Bytes that a device moves under each strategy [B], [num strategies]."""
    total = np.zeros(len(space))
    for moved in traffic:
        total += moved.bytes_ / space.shards(moved.tensor)
    return total


def reductions(
    strategy: Strategy,
    reduction: frozenset[int],
    local_bytes: float,
    *,
    mesh: Mesh,
) -> list[tuple[str, float, tuple[str, ...]]]:
    """Collectives that make a group's partial results whole: kind, payload, axes.

    XLA's partitioner sums over the axes of one factor at a time.

    Args:
        strategy: Of the group.
        reduction: Its reduced factors.
        local_bytes: Size of one device's shard of the result in the end [B].
        mesh: Whose axes.
    """
    scattered = [a for a in range(len(mesh.axes)) if strategy.is_scattered(a)]
    summed = [
        axis
        for axis, factor in enumerate(strategy.before)
        if factor in reduction and strategy.after[axis] is None
    ]
    found = []
    names = mesh.names
    payload = local_bytes
    for factor in dict.fromkeys(strategy.before[axis] for axis in summed):
        axes = tuple(names[axis] for axis in summed if strategy.before[axis] == factor)
        found.append(("all_reduce", payload, axes))
    for axis in reversed(scattered):
        payload *= mesh.shape[axis]
        found.append(("reduce_scatter", payload, (names[axis],)))
    return found[::-1]
