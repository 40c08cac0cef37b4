"""How long one kernel or collective takes, for orders that hide one by others [s]."""

import math
from collections.abc import Sequence

from tepdist.cost.compute import (
    compute_dtype,
    flops,
    is_matmul,
    matmul_flops_per_s,
    memory_s,
)
from tepdist.cost.placed import Placed
from tepdist.cost.resharding_walk import Step
from tepdist.program.graph import Op
from tepdist.sharding import Sharding


def kernel_s(op: Op, placed: Placed, bytes_: int) -> float:
    """Time of the kernel that ends in an op [s].

    Args:
        op: Any.
        placed: The program that it is of.
        bytes_: That the kernel reads and writes [B].
    """
    device = placed.pricing.cluster.device
    moving_s = float(memory_s(float(bytes_), device))
    if not is_matmul(op.kind):
        return moving_s + device.launch_s
    values = placed.program.values
    lies: Sequence[Sharding] = (
        *placed.operands[op.index],
        *(placed.values[value] for value in op.results),
    )
    shards = placed.mesh.size_of({axis for each in lies for axis in each.axes})
    rate = matmul_flops_per_s(device, compute_dtype(op, values))
    return max(moving_s, flops(op, values) / shards / rate) + device.launch_s


def steps_s(steps: Sequence[Step], placed: Placed, bytes_per_element: float) -> float:
    """Time of the steps of a resharding whose payloads count elements [s]."""
    return sum(
        placed.pricing.collective_s(
            step.kind, math.ceil(step.bytes_ * bytes_per_element), step.mesh_axes
        )
        for step in steps
    )
