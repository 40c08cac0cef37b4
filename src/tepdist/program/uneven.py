"""Which factors of an op may be cut into unequal parts: the last one is smaller.

XLA's partitioner takes each device's part to be as large as the largest. It masks
what it has added wherever an op would mix that with the rest, and moves no more
than it would for equal parts, but not in every op: these are the ones that were
tried, with what is not a number in what is added. All other factors of a size that
the mesh axes do not divide stay whole.
"""

from dataclasses import replace

from jaxlib.mlir import ir

from tepdist.program.graph import CUSTOM_CALL, Rule
from tepdist.program.sums import is_sum

_MASKED = frozenset(
    f"stablehlo.{name}"
    for name in (
        "concatenate",
        "convolution",
        "dot_general",
        "dynamic_slice",
        "dynamic_update_slice",
        "gather",
        "pad",
        "reduce",
        "reshape",
        "reverse",
        "scatter",
        "slice",
        "sort",
        "transpose",
    )
)
# Pointwise by their rules, but not to XLA.
_NOT_POINTWISE = frozenset({CUSTOM_CALL, "stablehlo.rng"})


def allow_uneven(rule: Rule, op: ir.Operation) -> Rule:
    """The rule with the factors that may be cut into unequal parts.

    Args:
        rule: Of the op.
        op: Any.
    """
    if not (is_sum(op) or op.name in _MASKED or _is_pointwise(rule, op)):
        return rule
    found = frozenset(range(len(rule.sizes))) - rule.blocked - _beside_others(rule)
    return replace(rule, uneven=found - {halo.factor for halo in rule.halos})


def _beside_others(rule: Rule) -> set[int]:
    """Factors that make up a dim together with others: their parts are not its."""
    found = set()
    for tensor in (*rule.operands, *rule.results):
        for dim in tensor:
            factors = {factor for factor in dim if rule.sizes[factor] > 1}
            found |= factors if len(factors) > 1 else set()
    return found


def _is_pointwise(rule: Rule, op: ir.Operation) -> bool:
    tensors = {*rule.operands, *rule.results}
    return not (rule.reduction or rule.blocked or rule.per_device) and (
        op.name not in _NOT_POINTWISE and len(tensors) == 1
    )
