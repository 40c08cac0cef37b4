"""Sharding rules of custom calls, in a form that portable artifacts keep.

JAX states a rule on the calls of its linear algebra. A portable artifact knows no
attributes of Shardy, so the rule goes as text.
"""

from jaxlib.mlir import ir

CUSTOM_CALL = "stablehlo.custom_call"
RULE_ATTRIBUTE = "sdy.sharding_rule"
TEXT_ATTRIBUTE = "tepdist.sharding_rule"


def rules_to_text(module: ir.Module) -> None:
    """Puts the rule of each custom call into text beside it, in place."""
    for op in _custom_calls(module):
        if RULE_ATTRIBUTE in op.attributes:
            text = str(op.attributes[RULE_ATTRIBUTE])
            op.attributes[TEXT_ATTRIBUTE] = ir.StringAttr.get(text)


def rules_from_text(module: ir.Module) -> None:
    """Makes rules of such texts again, in place.

    Raises:
        ir.MLIRError: if a text is no rule, or not one of its op.
    """
    for op in _custom_calls(module):
        if TEXT_ATTRIBUTE in op.attributes:
            text = ir.StringAttr(op.attributes[TEXT_ATTRIBUTE]).value
            op.attributes[RULE_ATTRIBUTE] = ir.Attribute.parse(text)
            del op.attributes[TEXT_ATTRIBUTE]
            op.verify()


def _custom_calls(module: ir.Module) -> list[ir.Operation]:
    found: list[ir.Operation] = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        if op.operation.name == CUSTOM_CALL:
            found.append(op.operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found
