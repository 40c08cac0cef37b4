"""The SPMD search problem of one mesh: from groups to a cost function network.

Variables are the groups that decide (one for each set of tied layers), their values
the group's strategies. Unary costs are compute and the group's own reductions, binary
costs the reshardings of what one group reads from another, each times how often it
happens. Usage is the memory of what a group defines, at the times that matter.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tepdist.analysis.groups import Group, GroupTensor
from tepdist.analysis.layers import Link
from tepdist.analysis.nodes import Dims, Node
from tepdist.cost.compute import matmul_flops_per_s
from tepdist.cost.pricing import Pricing
from tepdist.program.graph import Program
from tepdist.search.network import Array
from tepdist.search.strategies import Strategy, enumerate_strategies, sharding_of
from tepdist.search.work import Traffic, Work
from tepdist.sharding import Mesh, Sharding


@dataclass(frozen=True, slots=True)
class Structure:
    """What does not depend on the mesh.

    Attributes:
        program: What is planned.
        nodes: Its nodes.
        groups: Its groups.
        links: Reads between groups.
        ties: For each group the group that decides for it.
        work: Work of each group that decides.
    """

    program: Program
    nodes: tuple[Node, ...]
    groups: tuple[Group, ...]
    links: tuple[Link, ...]
    ties: tuple[int, ...]
    work: Mapping[int, Work]


@dataclass(frozen=True, slots=True)
class Problem:
    """The network of one mesh, without limits, and what its values mean.

    Attributes:
        pricing: Of this mesh.
        deciders: Group that each variable decides for.
        variable_of: For each group its variable.
        strategies: Values of each variable.
        compute: Part of the unary costs that is compute [s].
        unary: Costs [s].
        binary: Costs [s].
    """

    pricing: Pricing
    deciders: tuple[int, ...]
    variable_of: tuple[int, ...]
    strategies: tuple[tuple[Strategy, ...], ...]
    compute: tuple[Array, ...]
    unary: tuple[Array, ...]
    binary: dict[tuple[int, int], Array]

    def compute_s(self, assignment: Sequence[int]) -> float:
        """Compute of one device per step under an assignment [s]."""
        return sum(
            float(costs[value])
            for costs, value in zip(self.compute, assignment, strict=True)
        )


class Builder:
    """Builds the network of one mesh."""

    def __init__(
        self,
        structure: Structure,
        pricing: Pricing,
        wanted: dict[int, Sharding],
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
        self._known_parts: dict[tuple[tuple[Strategy, ...], int], _Parts] = {}

    def build(self) -> Problem:
        structure = self._structure
        deciders = tuple(sorted(set(structure.ties)))
        position = {group: variable for variable, group in enumerate(deciders)}
        variable_of = tuple(position[tie] for tie in structure.ties)
        wanted: dict[int, list[GroupTensor]] = defaultdict(list)
        for index, group in enumerate(structure.groups):
            wanted[variable_of[index]] += [
                tensor for tensor in group.outputs if tensor.value in self._wanted
            ]
        strategies = tuple(
            self._strategies(structure.groups[group], wanted[variable])
            for variable, group in enumerate(deciders)
        )
        counts = np.bincount(np.array(variable_of), minlength=len(deciders))
        compute = tuple(
            self._compute_costs(group, strategies[variable]) * counts[variable]
            for variable, group in enumerate(deciders)
        )
        unary = [
            costs + self._reduction_costs(group, strategies[variable]) * counts[variable]
            for variable, (group, costs) in enumerate(
                zip(deciders, compute, strict=True)
            )
        ]
        binary = self._edges(variable_of, strategies, unary)
        return Problem(
            self._pricing,
            deciders,
            variable_of,
            strategies,
            compute,
            tuple(unary),
            binary,
        )

    def _strategies(
        self, group: Group, wanted: Sequence[GroupTensor]
    ) -> tuple[Strategy, ...]:
        mesh = self._pricing.mesh
        scatters = self._pricing.cluster.fuses_reduce_scatter
        found = enumerate_strategies(group, mesh, scatters=scatters)
        for tensor in wanted:
            sharding = self._wanted[tensor.value]
            found = tuple(
                strategy
                for strategy in found
                if sharding_of(strategy, tensor, mesh) == sharding
            )
        return found

    # -- unary costs ---------------------------------------------------------------

    def _compute_costs(self, index: int, strategies: tuple[Strategy, ...]) -> Array:
        """Compute of one group under each strategy [s], [num strategies]."""
        group, work = self._structure.groups[index], self._structure.work[index]
        device = self._pricing.cluster.device
        parts = self._parts(group, strategies)
        flops = work.flops / parts.before.prod(axis=1)
        core = self._traffic(work.core, parts)
        fused = self._traffic(work.fused, parts)
        core_s = np.maximum(
            flops / matmul_flops_per_s(device, work.dtype),
            core / device.memory_bytes_per_s,
        )
        fused_s = fused / device.memory_bytes_per_s
        total: Array = core_s + fused_s + work.kernels * device.launch_s
        return total

    def _traffic(self, traffic: Sequence[Traffic], parts: "_Parts") -> Array:
        total = np.zeros(len(parts.before))
        for moved in traffic:
            total += moved.bytes_ / parts.of(moved.tensor)
        return total

    def _parts(self, group: Group, strategies: tuple[Strategy, ...]) -> "_Parts":
        key = (strategies, len(group.sizes))
        if key not in self._known_parts:
            shape = self._pricing.mesh.shape
            self._known_parts[key] = _Parts(
                _cuts([s.before for s in strategies], len(group.sizes), shape),
                _cuts([s.after for s in strategies], len(group.sizes), shape),
            )
        return self._known_parts[key]

    def _reduction_costs(self, index: int, strategies: tuple[Strategy, ...]) -> Array:
        """A group's own reductions under each strategy [s], [num strategies]."""
        group = self._structure.groups[index]
        if not group.reduction:
            return np.zeros(len(strategies))
        parts = self._parts(group, strategies)
        tensors = [tensor for tensor in group.outputs if tensor.member == 0]
        trips = self._structure.nodes[group.members[0].node].trips
        costs = np.zeros(len(strategies))
        for tensor in tensors:
            bytes_ = self._structure.program.values[tensor.value].bytes_
            local = bytes_ / parts.of(tensor)
            for position, strategy in enumerate(strategies):
                costs[position] += trips * sum(
                    self._pricing.collective_s(kind, payload, axes)
                    for kind, payload, axes in reductions(
                        strategy, group.reduction, local[position], self._pricing.mesh
                    )
                )
        return costs

    # -- binary costs --------------------------------------------------------------

    def _edges(
        self,
        variable_of: tuple[int, ...],
        strategies: tuple[tuple[Strategy, ...], ...],
        unary: list[Array],
    ) -> dict[tuple[int, int], Array]:
        """Resharding costs of each pair of variables; of one with itself into unary."""
        binary: dict[tuple[int, int], Array] = {}
        for (source, output, target, input_), count in self._links(variable_of).items():
            table = count * self._link_costs(
                source, output, target, input_, strategies, variable_of
            )
            i, j = variable_of[source], variable_of[target]
            if i == j:
                unary[i] = unary[i] + table.diagonal()
                continue
            if i > j:
                i, j, table = j, i, table.T
            binary[i, j] = binary[i, j] + table if (i, j) in binary else table
        return {pair: table for pair, table in binary.items() if table.any()}

    def _links(
        self, variable_of: tuple[int, ...]
    ) -> dict[tuple[int, int, int, int], int]:
        """Alike links counted; each under the groups of its first."""
        first: dict[tuple[int, int, int, int], tuple[int, int, int, int]] = {}
        counts: dict[tuple[int, int, int, int], int] = defaultdict(int)
        for link in self._structure.links:
            here = (link.source, link.output, link.target, link.input)
            key = (
                variable_of[link.source],
                link.output,
                variable_of[link.target],
                link.input,
            )
            counts[first.setdefault(key, here)] += 1
        return counts

    def _link_costs(
        self,
        source: int,
        output: int,
        target: int,
        input_: int,
        strategies: tuple[tuple[Strategy, ...], ...],
        variable_of: tuple[int, ...],
    ) -> Array:
        structure = self._structure
        written = structure.groups[source].outputs[output]
        read = structure.groups[target].inputs[input_]
        sources, source_index = lies(
            strategies[variable_of[source]], written, self._pricing.mesh
        )
        targets, target_index = lies(
            strategies[variable_of[target]], read, self._pricing.mesh
        )
        member = structure.groups[target].members[read.member]
        node = structure.nodes[member.node]
        value = structure.program.values[written.value]
        # What enters a loop from outside is resharded once, not on each turn.
        producer = structure.nodes[
            structure.groups[source].members[written.member].node
        ]
        trips = min(node.trips, producer.trips)
        table = self._pricing.resharding_table(value.bytes_, sources, targets)
        costs: Array = trips * table[np.ix_(source_index, target_index)]
        return costs


@lru_cache(maxsize=1 << 16)
def _lies(
    strategies: tuple[Strategy, ...], dims: Dims, reduced: bool, mesh: Mesh
) -> tuple[tuple[Sharding, ...], NDArray[np.intp]]:
    numbers: dict[Sharding, int] = {}
    tensor = GroupTensor(-1, dims, reduced, 0)
    index = [
        numbers.setdefault(sharding_of(strategy, tensor, mesh), len(numbers))
        for strategy in strategies
    ]
    return tuple(numbers), np.array(index, np.intp)


def lies(
    strategies: tuple[Strategy, ...], tensor: GroupTensor, mesh: Mesh
) -> tuple[tuple[Sharding, ...], NDArray[np.intp]]:
    """The distinct shardings of a tensor, and which of them each strategy gives."""
    return _lies(strategies, tensor.dims, tensor.reduced, mesh)


def shard_counts(
    strategies: tuple[Strategy, ...], tensor: GroupTensor, mesh: Mesh
) -> Array:
    """Number of shards of a tensor under each strategy, [num strategies]."""
    factors = [factor for dim in tensor.dims for factor in dim]
    num_factors = max(factors, default=-1) + 1
    assigned = [s.after if tensor.reduced else s.before for s in strategies]
    shards: Array = _cuts(assigned, num_factors, mesh.shape)[:, factors].prod(axis=1)
    return shards


@dataclass(frozen=True, slots=True)
class _Parts:
    """Into how many parts each strategy cuts each factor, [strategies, factors]."""

    before: Array
    after: Array

    def of(self, tensor: GroupTensor) -> Array:
        """Number of shards of a tensor under each strategy, [strategies]."""
        factors = [factor for dim in tensor.dims for factor in dim]
        table = self.after if tensor.reduced else self.before
        shards: Array = table[:, factors].prod(axis=1)
        return shards


def _cuts(
    assigned: Sequence[tuple[int | None, ...]], num_factors: int, shape: tuple[int, ...]
) -> Array:
    table = np.ones((len(assigned), num_factors))
    for row, factors in enumerate(assigned):
        for axis, factor in enumerate(factors):
            if factor is not None and factor < num_factors:
                table[row, factor] *= shape[axis]
    return table


def reductions(
    strategy: Strategy,
    reduction: frozenset[int],
    local_bytes: float,
    mesh: Mesh,
) -> list[tuple[str, float, tuple[str, ...]]]:
    """Collectives that make a group's partial results whole: kind, payload, axes.

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
    if summed:
        axes = tuple(names[axis] for axis in summed)
        found.append(("all_reduce", payload, axes))
    for axis in scattered:
        payload *= mesh.shape[axis]
        found.append(("reduce_scatter", payload, (names[axis],)))
    return found[::-1]
