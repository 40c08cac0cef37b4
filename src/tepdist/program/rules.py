"""Sharding rules: Shardy's as data, and ours for the few ops it says nothing about."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from types import MappingProxyType
from typing import TypeAlias

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy

from tepdist.program.graph import CUSTOM_CALL, Rule
from tepdist.program.signature import single_op
from tepdist.program.sums import KIND as SUM
from tepdist.program.sums import is_sum, sum_rule
from tepdist.program.windows import (
    CONVOLUTION,
    REDUCE_WINDOW,
    SELECT_AND_SCATTER,
    pooling_gradient_rule,
    window_rule,
)

RULE_ATTRIBUTE = "sdy.sharding_rule"
ALL_REDUCED = frozenset(
    f"stablehlo.{name}" for name in ("add", "multiply", "minimum", "maximum")
)
# All-reduced where they are a minimum and a maximum.
ALL_REDUCED_BITS = frozenset({"stablehlo.and", "stablehlo.or"})
# XLA asks the target itself how to partition this one.
SELF_PARTITIONED = "CustomSPMDPartitioning"
PER_DEVICE = frozenset(
    {
        CUSTOM_CALL,
        "stablehlo.cholesky",
        "stablehlo.fft",
        "stablehlo.triangular_solve",
    }
)

# Each device makes its partial results, which a plan may have scattered.
SCATTERING = frozenset(
    {
        CONVOLUTION,
        "stablehlo.dot_general",
        "stablehlo.reduce",
        "stablehlo.scatter",
        SUM,
    }
)

COMBINING = frozenset(
    {
        "stablehlo.all_reduce",
        "stablehlo.reduce",
        "stablehlo.reduce_scatter",
        REDUCE_WINDOW,
        "stablehlo.scatter",
        SELECT_AND_SCATTER,
    }
)

Shapes: TypeAlias = Sequence[tuple[int, ...]]


def stated_rule(op: ir.Operation, shapes: Shapes) -> Rule | None:
    """The rule that Shardy put on an op, as far as XLA's partitioner follows it.

    That of a sum of products is ours.

    Args:
        op: After ``sdy-populate-op-sharding-rules``.
        shapes: Of its operands, then of its results.

    Returns:
        None if Shardy has no rule for such an op.
    """
    if is_sum(op):
        return sum_rule(op)
    if RULE_ATTRIBUTE not in op.attributes:
        return None
    rule = block_uneven(shardy_rule(op.attributes[RULE_ATTRIBUTE]), shapes)
    if is_per_device(op):
        return keep_batch(rule)
    if op.name == CONVOLUTION:
        return window_rule(rule, op)
    if op.name == "stablehlo.dynamic_update_slice":
        return block_updates(rule)
    if op.name in COMBINING:
        rule = block_combining(rule, op)
    if op.name == REDUCE_WINDOW and len(op.results) == 1:
        return window_rule(rule, op)
    if op.name == SELECT_AND_SCATTER:
        return pooling_gradient_rule(rule, op)
    return rule


def shardy_rule(attribute: ir.Attribute) -> Rule:
    """Shardy's ``#sdy.op_sharding_rule<...>`` as data."""
    rule = sdy.OpShardingRuleAttr(attribute)
    blocked = [*rule.need_replication_factors, *rule.permutation_factors]
    return Rule(
        sizes=tuple(rule.factor_sizes),
        operands=tuple(_tensor_factors(tensor) for tensor in rule.operand_mappings),
        results=tuple(_tensor_factors(tensor) for tensor in rule.result_mappings),
        reduction=frozenset(rule.reduction_factors),
        blocked=frozenset(blocked),
    )


def _tensor_factors(tensor: ir.Attribute) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(sdy.DimMappingAttr(dim).factor_indices)
        for dim in sdy.TensorMappingAttr(tensor).dim_mappings
    )


def own_rule(kind: str, operands: Shapes, results: Shapes) -> Rule | None:
    """The rule of an op that Shardy has none for; None if we have none either."""
    make = OWN_RULES.get(kind)
    return make(operands, results) if make else None


def block_uneven(rule: Rule, shapes: Shapes) -> Rule:
    """The rule with every factor blocked that does not make up its dims.

    Shardy gives both sides of a slice or pad one factor, of the larger extent, and
    some windows a factor of size 1. Where the two sides of a reshape have no common
    cut, it gives each a factor of its own: to shard the operand's is to gather it.
    Afterwards the factors of a dim multiply to its extent unless they are blocked, and
    what an operand has more than the results is reduced unless it is blocked.

    Args:
        rule: As Shardy states it.
        shapes: Of the operands, then of the results.
    """
    uneven = {
        factor
        for shape, tensor in zip(shapes, (*rule.operands, *rule.results), strict=True)
        for extent, factors in zip(shape, tensor, strict=True)
        if math.prod(rule.sizes[factor] for factor in factors) != extent
        for factor in factors
    }
    uneven |= _factors(rule.operands) - _factors(rule.results) - rule.reduction
    return replace(rule, blocked=rule.blocked | uneven) if uneven else rule


def _factors(tensors: Sequence[tuple[tuple[int, ...], ...]]) -> set[int]:
    return {factor for tensor in tensors for factors in tensor for factor in factors}


def block_combining(rule: Rule, op: ir.Operation) -> Rule:
    """The rule of an op with a combining body, its reduced factors blocked if need be.

    Partial results are made whole by one all-reduce, which knows a few plain ops. XLA
    gathers those of other bodies and of ops with several results (argmax).
    """
    known = ALL_REDUCED
    if str(ir.RankedTensorType(op.results[0].type).element_type) == "i1":
        known |= ALL_REDUCED_BITS
    if len(op.results) == 1 and single_op(op) in known:
        return rule
    return replace(rule, blocked=rule.blocked | rule.reduction)


def block_updates(rule: Rule) -> Rule:
    """The rule of a dynamic-update-slice: XLA gathers a dim that is updated in part."""
    whole, update, *_ = rule.operands
    return replace(
        rule, blocked=rule.blocked | (_factors([whole]) - _factors([update]))
    )


def is_per_device(op: ir.Operation) -> bool:
    """Whether XLA gathers the operands of such an op, whatever is stated about them."""
    if op.name == CUSTOM_CALL:
        target = ir.StringAttr(op.attributes["call_target_name"]).value
        return target != SELF_PARTITIONED
    return op.name in PER_DEVICE


def keep_batch(rule: Rule) -> Rule:
    """The rule of an op for each device to run on its shards: batch factors are free.

    A batch factor cuts every result, so that no two devices make the same shard of
    one, and what it cuts of the operands is all that a shard of the results needs.
    """
    batch = _factors(rule.operands) - rule.reduction
    for tensor in rule.results:
        batch &= _factors([tensor])
    others = frozenset(range(len(rule.sizes))) - batch
    return replace(rule, blocked=rule.blocked | others, per_device=True)


def _per_operand(operands: Shapes, results: Shapes) -> Rule:
    """Result i is operand i; operands have nothing to do with each other."""
    assert list(operands) == list(results)
    sizes = tuple(extent for shape in operands for extent in shape)
    next_factor = count()
    factors = tuple(tuple((next(next_factor),) for _ in shape) for shape in operands)
    return Rule(sizes, factors, factors)


def _elementwise(operands: Shapes, results: Shapes) -> Rule:
    """All operands and results have one shape and share its dims."""
    shape = results[0]
    factors = tuple((dim,) for dim in range(len(shape)))
    return Rule(shape, (factors,) * len(operands), (factors,) * len(results))


OWN_RULES: Mapping[str, Callable[[Shapes, Shapes], Rule]] = MappingProxyType(
    {
        "stablehlo.optimization_barrier": _per_operand,
        "stablehlo.constant": _elementwise,
        "stablehlo.iota": _elementwise,
        "chlo.acos": _elementwise,
        "chlo.acosh": _elementwise,
        "chlo.asin": _elementwise,
        "chlo.asinh": _elementwise,
        "chlo.atan": _elementwise,
        "chlo.atanh": _elementwise,
        "chlo.bessel_i1e": _elementwise,
        "chlo.conj": _elementwise,
        "chlo.cosh": _elementwise,
        "chlo.digamma": _elementwise,
        "chlo.erf": _elementwise,
        "chlo.erf_inv": _elementwise,
        "chlo.erfc": _elementwise,
        "chlo.is_inf": _elementwise,
        "chlo.is_neg_inf": _elementwise,
        "chlo.is_pos_inf": _elementwise,
        "chlo.lgamma": _elementwise,
        "chlo.next_after": _elementwise,
        "chlo.polygamma": _elementwise,
        "chlo.sinh": _elementwise,
        "chlo.square": _elementwise,
        "chlo.tan": _elementwise,
        "chlo.zeta": _elementwise,
    }
)
