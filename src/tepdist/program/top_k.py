"""Writes ``chlo.top_k`` as the stable sort that defines it.

Shardy has no rule for it, and XLA gathers its operand even where only other dims are
sharded; a sort keeps those as they are. XLA finds the pattern again and calls its own
top-k where it has one.
"""

from string import Template

from jaxlib.mlir import ir

from tepdist.program import module as modules
from tepdist.program.inline import find_ops, splice

TOP_K = "chlo.top_k"
DEFINITION = Template("""
func.func private @top_k(%x: $source) -> ($values, $indices) {
  %i = stablehlo.iota dim = $dim : $positions
  %s:2 = "stablehlo.sort"(%x, %i) <{dimension = $dim : i64, is_stable = true}> ({
  ^bb0(%a: tensor<$dtype>, %b: tensor<$dtype>, %c: tensor<$index>, %d: tensor<$index>):
    %p = stablehlo.compare GT, %a, %b$order
      : (tensor<$dtype>, tensor<$dtype>) -> tensor<i1>
    stablehlo.return %p : tensor<i1>
  }) : ($source, $positions) -> ($source, $positions)
  %v = stablehlo.slice %s#0 [$slices] : ($source) -> $values
  %w = stablehlo.slice %s#1 [$slices] : ($positions) -> $indices
  return %v, %w : $values, $indices
}
""")


def expand_top_k(root: ir.OpView) -> None:
    """Replaces every ``chlo.top_k`` below `root`, in place."""
    for op in find_ops(root, {TOP_K}):
        definition = modules.parse(_definition(op))
        splice(definition.body.operations[0].regions[0].blocks[0], op)


def _definition(op: ir.Operation) -> str:
    source, values, indices = (
        ir.RankedTensorType(value.type) for value in (*op.operands, *op.results)
    )
    index = indices.element_type
    with op.location:
        positions = ir.RankedTensorType.get(source.shape, index)
    is_float = isinstance(source.element_type, ir.FloatType)
    return DEFINITION.substitute(
        source=source,
        values=values,
        indices=indices,
        positions=positions,
        dtype=source.element_type,
        index=index,
        dim=source.rank - 1,
        order=", TOTALORDER" if is_float else "",
        slices=", ".join(f"0:{extent}" for extent in values.shape),
    )
