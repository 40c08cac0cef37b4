"""Which operands of products and convolutions a compiler transposes into a copy first.

Dims are told apart by the factors that they share: a batch dim has a factor of both
operands and the result, a contracted one of both operands only, a free one of one
operand and the result.

Sources:
    XLA's DotDecomposer and ConvCanonicalization, and the programs that come out.
"""

from collections.abc import Mapping
from types import MappingProxyType

from tepdist.program.graph import Op, Rule

DOT = "stablehlo.dot_general"
CONVOLUTION = "stablehlo.convolution"
TRANSPOSING = frozenset({DOT, CONVOLUTION})
# Part of a product's dims in the order in which a kernel reads them.
_BATCH, _FREE, _CONTRACTED = "b", "f", "c"
# Platform to the orders that a product's left and right operands may be read in.
_ORDERS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = MappingProxyType(
    {
        "cpu": (frozenset({"bfc"}), frozenset({"bcf", "fc"})),
        "gpu": (frozenset({"bfc", "bcf"}), frozenset({"bfc", "bcf"})),
        "tpu": (frozenset({"bfc", "bcf"}), frozenset({"bfc", "bcf"})),
    }
)


def transposed(op: Op, position: int, *, platform: str) -> bool:
    """Whether an operand is transposed before it is read.

    Args:
        op: Any.
        position: Of the operand.
        platform: Of the devices: ``cpu``, ``gpu`` or ``tpu``.
    """
    rule = op.rule
    if rule is None or position > 1:
        return False
    if op.kind == DOT:
        orders = _ORDERS[platform][position]
        if platform == "cpu" and position == 1 and len(_contracted(rule)) > 1:
            orders = frozenset({"bcf"})
        found = _parts(rule, position)
        return not any(_is_within(found, order) for order in orders)
    if op.kind == CONVOLUTION and platform == "cpu":
        return not _is_canonical(rule, position)
    return False


def _parts(rule: Rule, position: int) -> str:
    """The kind of each dim of an operand that is longer than one, runs as one."""
    own, other = rule.operands[position], rule.operands[1 - position]
    in_result = {factor for dim in rule.results[0] for factor in dim}
    in_other = {factor for dim in other for factor in dim}
    parts = ""
    for dim in own:
        factors = [factor for factor in dim if rule.sizes[factor] > 1]
        if not factors:
            continue
        factor = factors[0]
        if factor not in in_other:
            part = _FREE
        else:
            part = _BATCH if factor in in_result else _CONTRACTED
        if not parts.endswith(part):
            parts += part
    return parts


def _contracted(rule: Rule) -> list[int]:
    """Factors longer than one that the result lacks."""
    return [factor for factor in rule.reduction if rule.sizes[factor] > 1]


def _is_within(parts: str, order: str) -> bool:
    """Whether parts stand in an order, some of them missing."""
    rest = iter(order)
    return all(part in rest for part in parts)


def _is_canonical(rule: Rule, position: int) -> bool:
    """Whether an image is batch, window, features; a kernel window, in, out."""
    own, other = rule.operands[position], rule.operands[1 - position]
    in_result = {factor for dim in rule.results[0] for factor in dim}
    in_other = {factor for dim in other for factor in dim}
    if position == 0:
        return not in_other.intersection(own[0]) and not in_result.intersection(own[-1])
    return not in_other.intersection(own[-1])
