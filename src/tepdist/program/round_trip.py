"""Reads back the form in which Shardy's ops travel in StableHLO artifacts and in HLO.

There meshes, shardings and rules are text in frontend attributes, constraints are
custom calls, and a manual computation is a call between two custom calls that change
the shapes of what goes in and comes out.
"""

from collections.abc import Iterable, Mapping, Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func, sdy

from tepdist.errors import ProgramError
from tepdist.program import module as modules
from tepdist.program.graph import CONSTRAINT, CUSTOM_CALL
from tepdist.program.inline import callees_first, find_ops
from tepdist.program.module import AnyValue
from tepdist.program.preparation import DAMAGED_HINT

IMPORT_ATTRIBUTES = "xla-sdy-round-trip-import-shardy-attrs"
FRONTEND = "mhlo.frontend_attributes"
RULE = "xla.sdy.sharding_rule"
BODY = "xla.sdy.manual_computation_body"
GO_IN, COME_OUT = "xla.sdy.GlobalToLocalShape", "xla.sdy.LocalToGlobalShape"
IN_SHARDINGS, OUT_SHARDINGS = "xla.sdy.in_shardings", "xla.sdy.out_shardings"
MANUAL_AXES = "xla.sdy.manual_axes"
CALL = "func.call"
ELEMENT = "stablehlo.get_tuple_element"
SHARDING = "sdy.sharding"


def import_shardy(module: ir.Module, custom_calls: Sequence[ir.Operation]) -> None:
    """Puts Shardy's ops back, in place, if the module holds their travelling form.

    Args:
        module: Any.
        custom_calls: All that are in it.

    Raises:
        ProgramError: if that form is damaged, or a function calls itself.
    """
    if not any(FRONTEND in op.attributes for op in (module.operation, *custom_calls)):
        return
    _check_rules(custom_calls)
    modules.run_passes(module, IMPORT_ATTRIBUTES)
    for call in custom_calls:
        if _target(call) == "Sharding" and SHARDING in call.attributes:
            _import_constraint(call)
    functions = {
        op.sym_name.value: op
        for op in module.body.operations
        if isinstance(op, func.FuncOp)
    }
    bodies = {name: op for name, op in functions.items() if name.startswith(BODY)}
    # Callees first: what a body calls is put back before the body is copied.
    calls = {name: find_ops(op, {CALL}) for name, op in functions.items()}
    graph = {name: {_callee(call) for call in found} for name, found in calls.items()}
    for name in callees_first(graph):
        for call in calls[name]:
            if _callee(call) in bodies:
                _import_manual(call, bodies)
    for body in bodies.values():
        body.operation.erase()


def _check_rules(custom_calls: Iterable[ir.Operation]) -> None:
    """Sees that rules are rules; the pass that reads them would end the process."""
    for call in custom_calls:
        if FRONTEND not in call.attributes:
            continue
        stated = ir.DictAttr(call.attributes[FRONTEND])
        if RULE not in stated:
            continue
        try:
            ir.Attribute.parse(ir.StringAttr(stated[RULE]).value)
        except (ValueError, ir.MLIRError):
            raise ProgramError(
                f"the sharding rule of a custom call of {_target(call)} is none",
                hint=DAMAGED_HINT,
            ) from None


def _import_constraint(call: ir.Operation) -> None:
    (sharding,) = sdy.TensorShardingPerValueAttr(call.attributes[SHARDING]).shardings
    with call.location:
        made = ir.Operation.create(
            CONSTRAINT,
            results=[call.results[0].type],
            operands=[call.operands[0]],
            attributes={"sharding": sharding},
            ip=ir.InsertionPoint(call),
        )
    call.results[0].replace_all_uses_with(made.results[0])
    call.erase()


def _import_manual(call: ir.Operation, bodies: Mapping[str, func.FuncOp]) -> None:
    """Puts a manual computation in the place of a call and the two around it."""
    into = _neighbour(map(_maker, call.operands), GO_IN)
    out = _neighbour(
        (use.owner for value in call.results for use in value.uses), COME_OUT
    )
    stated = _stated(into) | _stated(out)
    if MANUAL_AXES not in stated:
        raise ProgramError("a manual computation names no mesh axes", hint=DAMAGED_HINT)
    none = sdy.TensorShardingPerValueAttr.get([])
    with call.location, ir.InsertionPoint(call):
        manual = sdy.ManualComputationOp(
            _result_types(out),
            list(into.operands) if into else [],
            stated.get(IN_SHARDINGS, none),
            stated.get(OUT_SHARDINGS, none),
            stated[MANUAL_AXES],
        )
    _move_body(bodies[_callee(call)], manual)
    if out:
        _replace_results(out, manual.results)
    call.erase()
    if into:
        for value in into.results:
            _erase_users(value)
        into.erase()


def _maker(value: AnyValue) -> ir.Operation | None:
    """The op that makes a value, also as an element of a tuple; None for none."""
    owner = value.owner
    if isinstance(owner, ir.Block):
        return None
    return (
        _maker(owner.operation.operands[0]) if _is_element(owner) else owner.operation
    )


def _is_element(op: ir.OpView | ir.Operation) -> bool:
    return op.operation.name == ELEMENT


def _result_types(out: ir.Operation | None) -> list[ir.Type]:
    """Types of a custom call's results; HLO's are one tuple if there are several."""
    if out is None:
        return []
    types = [value.type for value in out.results]
    if len(types) == 1 and isinstance(types[0], ir.TupleType):
        return [types[0].get_type(i) for i in range(types[0].num_types)]
    return types


def _replace_results(out: ir.Operation, values: Sequence[AnyValue]) -> None:
    results = list(out.results)
    if len(results) == 1 and isinstance(results[0].type, ir.TupleType):
        for use in list(results[0].uses):
            element = use.owner.operation
            if not _is_element(element):
                raise ProgramError(
                    "the results of a manual computation are used as a tuple",
                    hint=DAMAGED_HINT,
                )
            index = ir.IntegerAttr(element.attributes["index"]).value
            element.results[0].replace_all_uses_with(values[index])
            element.erase()
    else:
        for old, new in zip(results, values, strict=True):
            old.replace_all_uses_with(new)
    out.erase()


def _erase_users(value: AnyValue) -> None:
    for use in list(value.uses):
        use.owner.operation.erase()


def _move_body(body: func.FuncOp, manual: sdy.ManualComputationOp) -> None:
    copy = body.operation.clone()
    copy.regions[0].blocks[0].append_to(manual.regions[0])
    block = manual.regions[0].blocks[0]
    terminator = block.operations[len(block.operations) - 1].operation
    with terminator.location, ir.InsertionPoint(terminator):
        sdy.ReturnOp(list(terminator.operands))
    terminator.erase()
    copy.erase()


def _neighbour(
    owners: Iterable[ir.OpView | ir.Operation | None], target: str
) -> ir.Operation | None:
    """The one custom call among the owners, which are all the same; None for none."""
    found: ir.Operation | None = None
    for owner in owners:
        if owner is None or _target(owner.operation) != target:
            raise ProgramError(
                f"what goes into or out of a manual computation is no {target}",
                hint=DAMAGED_HINT,
            )
        if found is not None and found != owner.operation:
            raise ProgramError(
                f"a manual computation has several {target}", hint=DAMAGED_HINT
            )
        found = owner.operation
    return found


def _stated(call: ir.Operation | None) -> dict[str, ir.Attribute]:
    """What a custom call's frontend attributes say, read from their text."""
    if call is None or FRONTEND not in call.attributes:
        return {}
    stated = ir.DictAttr(call.attributes[FRONTEND])
    entries = [stated[i] for i in range(len(stated))]
    try:
        return {
            entry.name: ir.Attribute.parse(ir.StringAttr(entry.attr).value)
            for entry in entries
            if entry.name in (IN_SHARDINGS, OUT_SHARDINGS, MANUAL_AXES)
        }
    except ir.MLIRError as error:
        raise modules.mlir_error("a stated sharding cannot be read", error) from None


def _target(op: ir.Operation) -> str:
    if op.name != CUSTOM_CALL:
        return ""
    return str(ir.StringAttr(op.attributes["call_target_name"]).value)


def _callee(call: ir.Operation) -> str:
    return str(ir.FlatSymbolRefAttr(call.attributes["callee"]).value)
