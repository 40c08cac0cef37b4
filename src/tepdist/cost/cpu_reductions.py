"""How XLA:CPU runs a reduction, which says what it needs in memory.

Sources:
    XLA's ``ynn_support`` and ``TreeReductionRewriter``, and the programs that come out
    (jax 0.10 and 0.12: a library's kernel from 4,096 elements up).
"""

from enum import Enum, auto

from tepdist.cost.placed import Placed
from tepdist.program.graph import Op

_LIBRARY_ELEMENTS = 4096
_TREE_WINDOW = 32
_LIBRARY_DTYPES = frozenset({"f32", "bf16", "f16"})


class CpuReduction(Enum):
    """What runs it.

    LIBRARY: a kernel of its own, which takes in a product.
    TREE: windows first, then those; takes in nothing.
    LOOP: code like any pointwise op's, which takes in what it reads.
    """

    LIBRARY = auto()
    TREE = auto()
    LOOP = auto()


def cpu_reduction(op: Op, placed: Placed) -> CpuReduction:
    """What runs a reduction on one device.

    Args:
        op: A ``stablehlo.reduce``.
        placed: The program that it is of.
    """
    described = placed.program.values[op.operands[0]]
    sharding = placed.operands[op.index][0]
    elements = described.num_elements // sharding.num_shards(placed.mesh)
    is_single = len(op.results) == 1
    has_kernel = is_single and described.dtype in _LIBRARY_DTYPES
    if has_kernel and elements >= _LIBRARY_ELEMENTS:
        return CpuReduction.LIBRARY
    local = sharding.local_shape(described.shape, placed.mesh)
    summed = frozenset() if op.rule is None else op.rule.reduction
    dims = () if op.rule is None else op.rule.operands[0]
    reduced = [
        extent
        for extent, factors in zip(local, dims, strict=bool(dims))
        if not summed.isdisjoint(factors)
    ]
    if is_single and max(reduced, default=0) > _TREE_WINDOW:
        return CpuReduction.TREE
    return CpuReduction.LOOP
