"""The SPMD search problem of one mesh: from groups to a cost function network.

Variables are the groups that decide (one for each set of tied layers), their values
the group's strategies. Unary costs are compute and the group's own reductions, binary
costs the reshardings of what one group reads from another, each times how often it
happens. Usage is the memory of what a group defines, at the times that matter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tepdist.analysis.bodies import BodyCollective, body_collectives
from tepdist.cluster.model import Device
from tepdist.cost.collectives import collective_s
from tepdist.cost.combining import last_reductions
from tepdist.cost.compute import kernel_s, memory_s, product_s
from tepdist.cost.pricing import Pricing
from tepdist.search.arrangements import Held, Strategy
from tepdist.search.clock import never
from tepdist.search.halos import halo_costs
from tepdist.search.network import CostSums, Network
from tepdist.search.reads import Reads
from tepdist.search.shared import Array
from tepdist.search.strategies import Space, space_of
from tepdist.search.structure import Structure
from tepdist.search.variables import Variable
from tepdist.search.work import Traffic, Work
from tepdist.search.zero import scatters_gradients, zero_costs, zero_spaces
from tepdist.sharding import Sharding


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
        *,
        zero: int | None = None,
        held: Sequence[Held] | None = None,
    ) -> None:
        """Prepares a build.

        Args:
            structure: Of the program.
            pricing: Of the mesh.
            wanted: Value index to the sharding it must have.
            zero: Stage of ZeRO, 0 to 3; None to leave it to the costs.
            held: For each variable what some axes cut; None leaves them all free.
        """
        self._zero = zero
        self._structure = structure
        self._pricing = pricing
        self._wanted = wanted
        self._reductions: dict[object, Array] = {}
        self._computed: dict[tuple[int, Space], Array] = {}
        self._paid: dict[tuple[Variable, Space, bool], tuple[Array, Array]] = {}
        self.spaces = self._find_spaces(held or [None] * len(structure.deciders))
        self._last = self._combined_reductions()
        self._combined = frozenset(
            number
            for number, group in enumerate(structure.deciders if self._last else ())
            if structure.nodes[structure.groups[group].members[0].node].op in self._last
        )

    def build(self, out_of_time: Callable[[], bool] = never) -> Problem:
        """The problem; every space must have a strategy.

        Raises:
            TimeIsOver: if the time is over before it is built.
        """
        structure, spaces = self._structure, self.spaces
        own_costs = [
            self._own_costs(variable, space, is_last=number in self._combined)
            for number, (variable, space) in enumerate(
                zip(structure.variables, spaces, strict=True)
            )
        ]
        compute = tuple(costs for costs, _ in own_costs)
        unary = [costs for _, costs in own_costs]
        own, shared = halo_costs(structure, self._pricing, spaces)
        for number, exchanged in own:
            unary[number] = unary[number] + exchanged
        network = Reads(structure, self._pricing, spaces).network(
            unary, shared, out_of_time=out_of_time
        )
        if self._zero is not None:
            costs = CostSums(network.unary, network.binary)
            for i, j, table in zero_costs(structure, spaces, self._zero):
                costs.add_pairs(i, j, table)
            network = replace(network, unary=tuple(costs.unary), binary=costs.binary)
        return Problem(self._pricing, spaces, compute, network)

    def _combined_reductions(self) -> frozenset[int]:
        """Reducing ops whose all-reduces the compiler combines, if there are any."""
        if not self._pricing.cluster.combines_bytes:
            return frozenset()
        structure = self._structure
        ops = [
            structure.nodes[group.members[0].node].op
            for group in structure.groups
            if group.reduction
        ]
        reducing = frozenset(op for op in ops if op is not None)
        return last_reductions(structure.program, reducing)

    def _find_spaces(self, held: Sequence[Held | None]) -> tuple[Space, ...]:
        structure, mesh = self._structure, self._pricing.mesh
        scatters = self._pricing.cluster.scatters_sums or scatters_gradients(self._zero)
        known: dict[tuple[Variable, Held | None], Space] = {}
        spaces = []
        for key in zip(structure.variables, held, strict=True):
            if key not in known:
                variable, each = key
                choices = variable.choices if scatters else variable.unscattered
                known[key] = space_of(choices, variable.sizes, mesh, held=each)
            spaces.append(known[key])
        if self._wanted:
            for index, group in enumerate(structure.groups):
                number = structure.variable_of[index]
                for tensor in group.outputs:
                    if tensor.value in self._wanted:
                        sharding = self._wanted[tensor.value]
                        spaces[number] = spaces[number].lying(tensor, sharding)
        if self._zero is not None:
            return zero_spaces(structure, spaces, self._zero)
        return tuple(spaces)

    def _own_costs(
        self, variable: Variable, space: Space, *, is_last: bool
    ) -> tuple[Array, Array]:
        """Compute, and that with reductions, per step [s], [num strategies] each."""
        key = (variable, space, is_last)
        if key not in self._paid:
            reduced = self._reduction_costs(variable, space, is_last=is_last)
            compute = self._compute_costs(variable.work, space) * variable.count
            self._paid[key] = compute, compute + reduced * variable.count
        return self._paid[key]

    def _compute_costs(self, work: Work, space: Space) -> Array:
        """Compute of one group under each strategy [s], [num strategies]."""
        key = (id(work), space)
        if key not in self._computed:
            self._computed[key] = _work_s(
                work,
                self._pricing.cluster.device,
                parts=space.before,
                core=_traffic(work.core, space),
                fused=_traffic(work.fused, space),
            )
        return self._computed[key]

    def _reduction_costs(
        self, variable: Variable, space: Space, *, is_last: bool
    ) -> Array:
        """A group's own reductions under each strategy [s], [num strategies]."""
        costs = np.zeros(len(space))
        if variable.op is not None and variable.op.body is not None:
            costs += variable.trips * sum(
                each.count * body_collective_s(each, self._pricing)
                for each in body_collectives(variable.op.body)
            )
        for tensor, value in variable.sums:
            bytes_ = self._pricing.moved_bytes(value)
            reduction = variable.choices.reduction
            key = (
                *(space, reduction, tensor.dims, tensor.reduced),
                *(bytes_, is_last),
            )
            if key not in self._reductions:
                local = bytes_ / space.shards(tensor)
                self._reductions[key] = self._reduction_s(
                    space, reduction, local, is_last=is_last
                )
            costs += variable.trips * self._reductions[key]
        return costs

    def _reduction_s(
        self,
        space: Space,
        reduction: frozenset[int],
        local_bytes: Array,
        *,
        is_last: bool,
    ) -> Array:
        """Time to reduce one tensor under each strategy [s], [num strategies]."""
        firsts = space.arrangements.summing(reduction)
        keys = list(zip(firsts, local_bytes.tolist(), strict=True))
        known = {
            (first, local): sum(
                self._collective_s(kind, payload, axes, is_last=is_last)
                for kind, payload, axes in reductions(
                    space.strategies[first], reduction, local, pricing=self._pricing
                )
            )
            for first, local in dict.fromkeys(keys)
        }
        return np.array([known[key] for key in keys])

    def _collective_s(
        self, kind: str, payload: float, axes: tuple[str, ...], *, is_last: bool
    ) -> float:
        """Time of one collective [s]; the last ones are taken to start together."""
        seconds = self._pricing.collective_s(kind, payload, axes)
        if not is_last or kind != "all_reduce":
            return seconds
        start_s = min(seconds, self._pricing.collective_s(kind, 1.0, axes))
        counts = self._structure.folded.op_counts
        together = int(counts[list(self._last)].sum())
        return seconds - start_s * (1 - 1 / together)


def _work_s(
    work: Work, device: Device, *, parts: Array, core: Array, fused: Array
) -> Array:
    """Time of a group's work per step under some strategies [s], [num strategies].

    Args:
        work: Of the group.
        device: Where it runs.
        parts: Into how many each factor is cut, [num strategies, num factors].
        core: Bytes that the first member's kernel moves [B], [num strategies].
        fused: Bytes that the kernel of all others moves [B], [num strategies].
    """
    flops = work.flops / parts.prod(axis=1)
    if work.extents is None:
        core_s = kernel_s(flops, core, dtype=work.dtype, device=device)
    else:
        local = np.array(work.sizes) / parts
        core_s = product_s(
            flops,
            core,
            extents=[local[:, list(extent)].prod(axis=1) for extent in work.extents],
            dtype=work.dtype,
            device=device,
        )
    once: Array = core_s + memory_s(fused, device) + work.kernels * device.launch_s
    once = once + sum(_whole_s(each, device) for each in work.inside)
    return once * work.trips


def _whole_s(work: Work, device: Device) -> float:
    """Time of work on whole tensors per step [s]."""
    core, fused = (
        np.array([sum(moved.bytes_ for moved in kernel)])
        for kernel in (work.core, work.fused)
    )
    parts = np.ones((1, len(work.sizes)))
    return float(_work_s(work, device, parts=parts, core=core, fused=fused)[0])


def body_collective_s(collective: BodyCollective, pricing: Pricing) -> float:
    """Time of one call of a collective that a manual computation states [s]."""
    spans = pricing.cluster.spans(pricing.mesh, collective.mesh_axes)
    return collective_s(collective.kind, float(collective.bytes_), spans)


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
    pricing: Pricing,
) -> list[tuple[str, float, tuple[str, ...]]]:
    """Collectives that make a group's partial results whole: kind, payload, axes.

    XLA's partitioner sums over the axes of one factor at a time; XLA:GPU makes one
    all-reduce of those.

    Args:
        strategy: Of the group.
        reduction: Its reduced factors.
        local_bytes: Size of one device's shard of the result in the end [B].
        pricing: Of the mesh.
    """
    mesh = pricing.mesh
    scattered = [a for a in range(len(mesh.axes)) if strategy.is_scattered(a)]
    summed = [
        axis
        for axis, factor in enumerate(strategy.before)
        if factor in reduction and strategy.after[axis] is None
    ]
    found = []
    names = mesh.names
    payload = local_bytes
    for axes in _summed_together(strategy, summed, pricing):
        found.append(("all_reduce", payload, tuple(names[axis] for axis in axes)))
    for axis in reversed(scattered):
        payload *= mesh.shape[axis]
        found.append(("reduce_scatter", payload, (names[axis],)))
    return found[::-1]


def _summed_together(
    strategy: Strategy, summed: Sequence[int], pricing: Pricing
) -> list[list[int]]:
    """Axes by the all-reduce that sums over them."""
    if pricing.cluster.device.platform == "gpu":
        return [list(summed)] if summed else []
    return [
        [axis for axis in summed if strategy.before[axis] == factor]
        for factor in dict.fromkeys(strategy.before[axis] for axis in summed)
    ]
