"""Replaces what is computed from nothing by the constant that it is.

A product over no terms is zero, a reduction of none its initial value. XLA folds them
and drops the collectives of what it folded, so nothing may be priced for them.
"""

from jaxlib.mlir import ir

from tepdist.program import module as modules
from tepdist.program.inline import find_ops, splice
from tepdist.program.module import AnyValue

PRODUCTS = frozenset({"stablehlo.convolution", "stablehlo.dot_general"})
# Their first operands come first, then as many paddings or initial values.
FILLED = frozenset({"stablehlo.pad", "stablehlo.reduce"})


def fold_empty(root: ir.OpView) -> None:
    """Replaces ops below `root` that read empty operands and make some elements."""
    for op in find_ops(root, PRODUCTS | FILLED):
        if any(map(_is_empty, op.operands)) and not _is_empty(op.results[0]):
            definition = modules.parse(_definition(op))
            splice(definition.body.operations[0].regions[0].blocks[0], op)


def _is_empty(value: AnyValue) -> bool:
    return 0 in ir.RankedTensorType(value.type).shape


def _definition(op: ir.Operation) -> str:
    """A function of the same operands, which it hardly reads."""
    types = [str(operand.type) for operand in op.operands]
    results = [str(result.type) for result in op.results]
    lines = []
    for number, type_ in enumerate(results):
        if op.name in PRODUCTS:
            zero = _zero(ir.RankedTensorType(op.results[number].type).element_type)
            lines.append(f"%r{number} = stablehlo.constant dense<{zero}> : {type_}")
            continue
        scalar = len(results) + number
        lines.append(
            f"%r{number} = stablehlo.broadcast_in_dim %a{scalar}, dims = [] : "
            f"({types[scalar]}) -> {type_}"
        )
    arguments = ", ".join(f"%a{i}: {type_}" for i, type_ in enumerate(types))
    made = ", ".join(f"%r{number}" for number in range(len(results)))
    joined = ", ".join(results)
    body = "\n".join(lines)
    return f"""func.func private @empty({arguments}) -> ({joined}) {{
      {body}
      return {made} : {joined}
    }}"""


def _zero(dtype: ir.Type) -> str:
    if isinstance(dtype, ir.ComplexType):
        return "(0.0, 0.0)"
    if isinstance(dtype, ir.FloatType):
        return "0.0"
    return "false" if str(dtype) == "i1" else "0"
