"""A stage's shardings as what its footprint is counted from."""

from collections.abc import Sequence
from typing import Protocol

from tepdist.analysis.liveness import expensive_kinds
from tepdist.cost.footprint import allocator_of
from tepdist.cost.placed import Placed, Reduction
from tepdist.cost.pricing import Pricing
from tepdist.plans.types import Collective
from tepdist.program.graph import Program
from tepdist.program.state import lent_buffers
from tepdist.search.structure import Structure
from tepdist.sharding import Sharding

_REDUCING = ("all_reduce", "reduce_scatter")


class Shardings(Protocol):
    """Where everything lies: a `Stage`, or what is to become one."""

    @property
    def values(self) -> tuple[Sharding, ...]: ...

    @property
    def operands(self) -> tuple[tuple[Sharding, ...], ...]: ...

    @property
    def results(self) -> tuple[Sharding, ...]: ...


def place(
    structure: Structure,
    pricing: Pricing,
    shardings: Shardings,
    *,
    collectives: Sequence[Collective],
) -> Placed:
    """The whole program with the sharding of everything.

    Args:
        structure: Of the program.
        pricing: Of the mesh.
        shardings: Of values, operands and results.
        collectives: That they take, in program order.
    """
    folded, device = structure.folded, pricing.cluster.device
    return Placed(
        program=folded.whole,
        mesh=pricing.mesh,
        values=shardings.values,
        operands=shardings.operands,
        results=shardings.results,
        partial=_partial(collectives, folded.whole),
        expensive=expensive_kinds(device),
        lent=lent_buffers(folded.whole, folded.whole_roles),
        pointwise=folded.whole_ops(structure.pointwise),
        platform=device.platform,
        alignment=allocator_of(device).alignment,
        pricing=pricing,
    )


def _partial(
    collectives: Sequence[Collective], program: Program
) -> dict[int, list[Reduction]]:
    """Op to the reductions of its result."""
    found: dict[int, list[Reduction]] = {}
    for each in collectives:
        made = {program.values[value].name for value in program.ops[each.op].results}
        if each.value in made and each.kind in _REDUCING:
            alone_s = each.seconds / each.count if each.count else 0.0
            reduction = Reduction(each.kind, each.mesh_axes, each.bytes_, alone_s)
            found.setdefault(each.op, []).append(reduction)
    return found
