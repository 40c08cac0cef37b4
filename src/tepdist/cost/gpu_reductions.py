"""How XLA:GPU runs a reduction: long ones in two kernels.

The first reduces runs of the elements, the second what is left of each run.

Source:
    XLA's ``TreeReductionRewriter`` and ``reduction_utils``, and the programs that come
    out.
"""

import itertools
import math
from collections.abc import Sequence

from tepdist.program.graph import Op

# Elements of a row that a kernel keeps in registers, of which a block has 65,536: it
# leaves a fifth free, and rows take powers of two.
_MOST_KEPT = 2**15
# Elements that one kernel reduces without two blocks adding to the same place.
_MOST_IN_ROW = 2**14
_MOST_IN_COLUMN = 2**12


def keeps_rows(op: Op, local: Sequence[int]) -> bool:
    """Whether a reduction goes along rows that a kernel keeps while it goes on.

    Args:
        op: A reduction.
        local: Shape of what it reads on one device.
    """
    reduced = _reduced(op)
    row = math.prod(itertools.compress(local, reduced))
    return bool(reduced) and reduced[-1] and row <= _MOST_KEPT


def left_over(op: Op, local: Sequence[int]) -> int | None:
    """What the first of two kernels leaves of the reduced elements; None if one does.

    Args:
        op: A reduction.
        local: Shape of what it reads on one device.
    """
    dims = [
        (extent, is_reduced)
        for extent, is_reduced in zip(local, _reduced(op), strict=False)
        if extent > 1
    ]
    if not dims or keeps_rows(op, local):
        return None
    length = math.prod(_last_reduced(dims))
    most = _MOST_IN_ROW if dims[-1][1] else _MOST_IN_COLUMN
    return _run(length, most) if length > most else None


def _reduced(op: Op) -> list[bool]:
    """Of each dim of what an op reads whether it is reduced."""
    if op.rule is None:
        return []
    return [op.rule.reduction.issuperset(dim) for dim in op.rule.operands[0]]


def _last_reduced(dims: Sequence[tuple[int, bool]]) -> list[int]:
    """Extents of the minor-most reduced dims that follow one another."""
    from_last = itertools.dropwhile(lambda dim: not dim[1], reversed(dims))
    return [extent for extent, _ in itertools.takewhile(lambda dim: dim[1], from_last)]


def _run(length: int, most: int) -> int:
    """Length of a run: near the root, with the least padding, then a power of two."""
    best = min(math.isqrt(length), most)
    least = -length % best
    for run in range(best - 1, best // 2, -1):
        padding = -length % run
        if padding < least or (padding == least and run.bit_count() == 1):
            best, least = run, padding
    return best
