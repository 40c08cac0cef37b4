"""Writes approximate top-k as the sort that it approximates.

It is a custom call that names a public function as its order. XLA itself sorts
wherever it has no kernel for it, which is everywhere but on TPUs; for Shardy it is an
unknown op, which would be computed whole on every device.
"""

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func, stablehlo

from tepdist.program.graph import CUSTOM_CALL
from tepdist.program.inline import find_ops
from tepdist.program.module import AnyValue

TARGET = "ApproxTopK"
ORDER = "called_computations"
DIM = "reduction_dim"


def expand_approximate_top_k(module: ir.Module) -> None:
    """Replaces every approximate top-k whose order the module holds, in place.

    Its operands are the arrays, then as many initial values.
    """
    functions = {
        op.sym_name.value: op
        for op in module.body.operations
        if isinstance(op, func.FuncOp)
    }
    for call in find_ops(module, {CUSTOM_CALL}):
        if ir.StringAttr(call.attributes["call_target_name"]).value != TARGET:
            continue
        order = functions.get(_order(call))
        dim = _dim(call)
        if order is not None and dim is not None:
            _expand(call, order, dim)


def _order(call: ir.Operation) -> str:
    (name,) = ir.ArrayAttr(call.attributes[ORDER])
    return str(ir.FlatSymbolRefAttr(name).value)


def _dim(call: ir.Operation) -> int | None:
    """The dim that is searched; None if the call does not say it as JAX does."""
    for name in ("mhlo.backend_config", "backend_config"):
        if name not in call.attributes:
            continue
        config = call.attributes[name]
        if isinstance(config, ir.DictAttr) and DIM in config:
            return int(ir.IntegerAttr(config[DIM]).value)
    return None


def _expand(call: ir.Operation, order: func.FuncOp, dim: int) -> None:
    arrays = list(call.operands)[: len(call.results)]
    source = order.body.blocks[0]
    types = [argument.type for argument in source.arguments]
    with call.location, ir.InsertionPoint(call):
        sort = stablehlo.SortOp(
            [array.type for array in arrays], arrays, dimension=dim, is_stable=True
        )
        block = sort.regions[0].blocks.append(
            *types, arg_locs=[call.location] * len(types)
        )
        for result, whole in zip(call.results, sort.results, strict=True):
            result.replace_all_uses_with(_first(whole, result.type))
    _copy_body(source, block)
    call.erase()


def _first(whole: AnyValue, wanted: ir.Type) -> AnyValue:
    """What of a sorted array stands first, as much as is wanted."""
    limits = ir.RankedTensorType(wanted).shape
    made: AnyValue = stablehlo.slice(
        whole, [0] * len(limits), list(limits), [1] * len(limits)
    )
    return made


def _copy_body(source: ir.Block, target: ir.Block) -> None:
    """Copies the ops of a function that calls none into a region."""
    copies: dict[AnyValue, AnyValue] = dict(
        zip(source.arguments, target.arguments, strict=True)
    )
    *ops, terminator = source.operations
    with ir.InsertionPoint(target):
        for op in ops:
            copy = op.operation.clone()
            for position, operand in enumerate(op.operation.operands):
                copy.operands[position] = copies[operand]
            copies.update(zip(op.operation.results, copy.results, strict=True))
        with terminator.operation.location:
            stablehlo.return_([copies[each] for each in terminator.operation.operands])
