"""How XLA:CPU runs a reduction, which says what it needs in memory.

Sources:
    XLA's ``ynn_support`` and ``TreeReductionRewriter``, and the programs that come out
    (jax 0.10 and 0.12: a library's kernel from 4,096 elements up).
"""

import math
from enum import Enum, auto

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


def cpu_reduction(op: Op, dtype: str, shape: tuple[int, ...]) -> CpuReduction:
    """What runs a reduction on one device.

    Args:
        op: A ``stablehlo.reduce``.
        dtype: Of its operand.
        shape: Of one device's shard of that.
    """
    is_single = len(op.results) == 1
    has_kernel = is_single and dtype in _LIBRARY_DTYPES
    if has_kernel and math.prod(shape) >= _LIBRARY_ELEMENTS:
        return CpuReduction.LIBRARY
    summed = frozenset() if op.rule is None else op.rule.reduction
    dims = () if op.rule is None else op.rule.operands[0]
    reduced = [
        extent
        for extent, factors in zip(shape, dims, strict=bool(dims))
        if not summed.isdisjoint(factors)
    ]
    if is_single and max(reduced, default=0) > _TREE_WINDOW:
        return CpuReduction.TREE
    return CpuReduction.LOOP
