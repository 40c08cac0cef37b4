"""Inlines every call: MLIR's own ``inline`` pass runs here but inlines nothing."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from graphlib import CycleError, TopologicalSorter

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from tepdist.errors import ProgramError

CHLO_PREFIX = "chlo."
COMPOSITE = "stablehlo.composite"
CALLEE = {"func.call": "callee", COMPOSITE: "decomposition"}


def inline_calls(module: ir.Module) -> None:
    """Replaces every call and composite by the body of what it calls, in place.

    Callees come first, so that each body is copied when it has no calls itself.

    Raises:
        ProgramError: if a function calls itself, at once or through others.
    """
    functions = {
        op.sym_name.value: op
        for op in module.body.operations
        if isinstance(op, func.FuncOp)
    }
    calls = {
        name: [op for op in find_ops(function, CALLEE.keys()) if not _recomposed(op)]
        for name, function in functions.items()
    }
    graph = {name: {_callee(call) for call in ops} for name, ops in calls.items()}
    for name in callees_first(graph):
        for call in calls[name]:
            copy = functions[_callee(call)].operation.clone()
            splice(_body(copy), call)


def find_ops(
    root: ir.Module | ir.OpView | ir.Operation, kinds: AbstractSet[str]
) -> list[ir.Operation]:
    """All ops of these kinds at or below `root`, outer before inner."""
    found: list[ir.Operation] = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        if op.operation.name in kinds:
            found.append(op.operation)
        return ir.WalkResult.ADVANCE

    root.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    return found


def splice(block: ir.Block, call: ir.Operation) -> None:
    """Moves the ops of `block` to before `call`, and puts its yields in its place.

    Locations of moved ops are put under the call's.
    """
    for argument, operand in zip(block.arguments, call.operands, strict=True):
        argument.replace_all_uses_with(operand)
    *body, terminator = list(block.operations)
    for op in body:
        _put_under(op.operation, call.location)
        op.operation.move_before(call)
    for result, value in zip(call.results, terminator.operands, strict=True):
        result.replace_all_uses_with(value)
    call.erase()


def callees_first(graph: Mapping[str, AbstractSet[str]]) -> list[str]:
    """Functions in an order in which each stands after those that it calls.

    Raises:
        ProgramError: if one calls itself, at once or through others.
    """
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        path = " -> ".join(reversed(error.args[1]))
        raise ProgramError(
            f"the program calls itself: {path}", hint="write recursion as a while loop"
        ) from None


def _callee(call: ir.Operation) -> str:
    return str(ir.FlatSymbolRefAttr(call.attributes[CALLEE[call.name]]).value)


def _body(function: ir.Operation) -> ir.Block:
    blocks: list[ir.Block] = list(function.regions[0].blocks)
    if len(blocks) != 1:
        name = ir.StringAttr(function.attributes["sym_name"]).value
        raise ProgramError(
            f"function {name} has no body, or branches between blocks",
            hint="write branches as stablehlo.case or stablehlo.if",
        )
    return blocks[0]


def _recomposed(composite: ir.Operation) -> bool:
    """Makes the CHLO op again that a portable artifact holds as a composite.

    XLA has an op for most of them, better than their decomposition.

    Returns:
        Whether it was one.
    """
    if composite.name != COMPOSITE:
        return False
    kind = ir.StringAttr(composite.attributes["name"]).value
    if not kind.startswith(CHLO_PREFIX):
        return False
    attributes = {}
    if "composite_attributes" in composite.attributes:
        stated = ir.DictAttr(composite.attributes["composite_attributes"])
        attributes = {stated[i].name: stated[i].attr for i in range(len(stated))}
    with composite.location:
        op = ir.Operation.create(
            kind,
            results=[result.type for result in composite.results],
            operands=list(composite.operands),
            attributes=attributes,
            ip=ir.InsertionPoint(composite),
        )
    if not _verifies(op):
        op.erase()
        return False
    for old, new in zip(composite.results, op.results, strict=True):
        old.replace_all_uses_with(new)
    composite.erase()
    return True


def _verifies(op: ir.Operation) -> bool:
    try:
        return bool(op.verify())
    except ir.MLIRError:
        return False


def _put_under(op: ir.Operation, outer: ir.Location) -> None:
    """Prefixes the names of `op` and what is in it by the name of the call."""
    if not isinstance(outer, ir.NameLoc):
        return
    prefix = f"{outer.name_str}/"

    def visit(inner: ir.Operation) -> ir.WalkResult:
        location = inner.operation.location
        if isinstance(location, ir.NameLoc):
            name = location.name_str
            if not name.startswith(prefix):
                inner.operation.location = ir.Location.name(prefix + name)
        else:
            inner.operation.location = outer
        return ir.WalkResult.ADVANCE

    op.walk(visit)
