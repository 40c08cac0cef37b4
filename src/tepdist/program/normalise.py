"""Brings a module to the form that graphs, plans and fingerprints are made of.

Afterwards there is one function, the public ``main``, without calls, attributes on
its arguments or shardings; constants are folded and shared, common subexpressions
are one op, as are matrix products that are added; each op's location is its name
stack and nothing else, so that moving a source file changes no fingerprint.
Normalising twice changes nothing, to the byte.

Of the shardings that a program states for itself those stay that constrain the
search, in one form; the rest is the search's to decide.
"""

from collections.abc import Mapping
from functools import cmp_to_key
from typing import cast

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from tepdist.errors import ProgramError
from tepdist.program import module as modules
from tepdist.program.approximate import expand_approximate_top_k
from tepdist.program.dead import drop_dead_results
from tepdist.program.empty import fold_empty
from tepdist.program.graph import CONSTRAINT, CONTROL_FLOW, CUSTOM_CALL
from tepdist.program.inline import (
    CALLEE,
    find_ops,
    inline_calls,
    splice,
)
from tepdist.program.stated import drop_unused_mesh, settle_shardings
from tepdist.program.sums import KIND as SUM
from tepdist.program.sums import inline_sums, outline_sums
from tepdist.program.top_k import TOP_K, expand_top_k

FOLDING = "canonicalize,cse,canonicalize,symbol-dce"
RESHARD = "sdy.reshard"
HINTS = frozenset({"sdy.propagation_barrier", "sdy.sharding_group"})
MARKS = HINTS | {RESHARD, SUM, CUSTOM_CALL}
SHARDING_TARGETS = frozenset({"Sharding"})
PARTITIONED_TARGETS = frozenset({"SPMDFullToShardShape", "SPMDShardToFullShape"})
SHARDING_ATTRIBUTES = (
    "sdy.sharding",
    "mhlo.sharding",
    "mhlo.frontend_attributes",
)
NAMES = (*CALLEE.values(), "called_computations")
DEFAULTS = ("precision_config", "backend_config")
DROPPED = frozenset({*SHARDING_ATTRIBUTES, *DEFAULTS})


def normalise(module: ir.Module) -> None:
    """Normalises the module in place.

    Raises:
        ProgramError: if it has no public ``main`` or another public function that
            nothing calls, calls itself, has a dynamic shape, was already partitioned
            for several devices, or states shardings that cannot be planned.
    """
    main = main_function(module)
    _make_private(module, main)
    modules.run_passes(module, "symbol-dce")
    inline_calls(module)
    # Walks over all ops take most of the time here: none for what there is none of.
    kinds, types = _kinds_and_types(main)
    if CUSTOM_CALL in kinds:
        expand_approximate_top_k(module)
    _refuse_dynamic_shapes(main, types)
    if TOP_K in kinds:
        expand_top_k(main)
    if any(map(_is_empty, types)):
        fold_empty(main)
    if not kinds.isdisjoint(MARKS):
        inline_sums(main)
        _drop_hints(main)
    settle_shardings(module, main)
    _drop_attributes(module, main)
    modules.run_passes(module, FOLDING)
    while not kinds.isdisjoint(CONTROL_FLOW) and drop_dead_results(main):
        modules.run_passes(module, FOLDING)
    drop_unused_mesh(module, main)
    outline_sums(main)
    _order_constants(main)
    _simplify_locations(module)


def main_function(module: ir.Module) -> func.FuncOp:
    """The public function ``main``: what other public ones there are, it must use.

    Raises:
        ProgramError: if there is none, or another one that no op names.
    """
    functions = _functions(module)
    public = {op.sym_name.value: op for op in functions if _is_public(op)}
    if "main" not in public:
        names = ", ".join(sorted(op.sym_name.value for op in functions)) or "none"
        raise ProgramError(
            f"the module has no public function main (functions: {names})",
            hint="name the entry function main and make it public",
        )
    main = public.pop("main")
    unused = sorted(public.keys() - _named_functions(module)) if public else []
    if unused:
        raise ProgramError(
            f"the module has several public functions: main, {', '.join(unused)}",
            hint="make all but main private",
        )
    if len(main.body.blocks) != 1:
        raise ProgramError(
            "function main has no body, or branches between blocks",
            hint="write branches as stablehlo.case or stablehlo.if",
        )
    return main


def _functions(module: ir.Module) -> list[func.FuncOp]:
    return [op for op in module.body.operations if isinstance(op, func.FuncOp)]


def _named_functions(module: ir.Module) -> frozenset[str]:
    """Functions that some op calls, or names as its body."""
    named: set[str] = set()
    for op in find_ops(module, {*CALLEE, CUSTOM_CALL}):
        attributes = [op.attributes[name] for name in NAMES if name in op.attributes]
        for attribute in attributes:
            each = attribute if isinstance(attribute, ir.ArrayAttr) else [attribute]
            named |= {ir.FlatSymbolRefAttr(name).value for name in each}
    return frozenset(named)


def _make_private(module: ir.Module, main: func.FuncOp) -> None:
    """Makes all functions but main private, so that they go once they are inlined."""
    for function in _functions(module):
        if function != main:
            private = ir.StringAttr.get("private")
            function.operation.attributes["sym_visibility"] = private


def _is_public(function: func.FuncOp) -> bool:
    visibility = function.sym_visibility
    return visibility is None or visibility.value == "public"


def _kinds_and_types(main: func.FuncOp) -> tuple[set[str], dict[ir.Type, str]]:
    """The kinds of all ops; the types of their results, each with an op that has it."""
    kinds: set[str] = set()
    types: dict[ir.Type, str] = {}

    def visit(op: ir.Operation) -> ir.WalkResult:
        kind = op.operation.name
        kinds.add(kind)
        for result in op.operation.results:
            types.setdefault(result.type, kind)
        return ir.WalkResult.ADVANCE

    main.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    return kinds, types


def _refuse_dynamic_shapes(main: func.FuncOp, types: Mapping[ir.Type, str]) -> None:
    names: dict[ir.Type, str] = {}
    for number, argument in enumerate(main.body.blocks[0].arguments):
        name = name_stack(argument.location) or str(number)
        names.setdefault(argument.type, f"argument {name}")
    for type_, kind in types.items():
        names.setdefault(type_, f"a result of {kind}")
    for type_, name in names.items():
        if _is_dynamic(type_):
            raise ProgramError(
                f"{name} has the dynamic shape {type_}",
                hint="lower the program for fixed shapes",
            )


def _is_dynamic(type_: ir.Type) -> bool:
    return isinstance(type_, ir.ShapedType) and not type_.has_static_shape


def _is_empty(type_: ir.Type) -> bool:
    return isinstance(type_, ir.RankedTensorType) and 0 in type_.shape


def _drop_hints(main: func.FuncOp) -> None:
    """Leaves of the ops about shardings constraints and manual computations."""
    for op in find_ops(main, MARKS):
        target = _target(op)
        if target in PARTITIONED_TARGETS:
            raise ProgramError(
                f"the program is already partitioned: it has a {target}",
                hint="give the program for one device, or lower it with Shardy",
            )
        if op.name == SUM:
            splice(op.regions[0].blocks[0], op)
        elif op.name == RESHARD:
            _constrain(op)
        elif op.name in HINTS or target in SHARDING_TARGETS:
            for result in op.results:
                result.replace_all_uses_with(op.operands[0])
            op.erase()


def _constrain(reshard: ir.Operation) -> None:
    with reshard.location:
        made = ir.Operation.create(
            CONSTRAINT,
            results=[reshard.results[0].type],
            operands=[reshard.operands[0]],
            attributes={"sharding": reshard.attributes["sharding"]},
            ip=ir.InsertionPoint(reshard),
        )
    reshard.results[0].replace_all_uses_with(made.results[0])
    reshard.erase()


def _drop_attributes(module: ir.Module, main: func.FuncOp) -> None:
    keep = {"sym_name", "sym_visibility", "function_type", "arg_attrs"}
    for owner in (module.operation, main.operation):
        for name in list(owner.attributes):
            if name not in keep:
                del owner.attributes[name]

    def visit(op: ir.Operation) -> ir.WalkResult:
        attributes = op.operation.attributes
        for name in [name for name in attributes if name in DROPPED]:
            if _says_nothing(name, attributes[name]):
                del attributes[name]
        return ir.WalkResult.ADVANCE

    main.operation.walk(visit)


def _says_nothing(name: str, attribute: ir.Attribute) -> bool:
    """Whether an attribute is a sharding, or a default: artifacts leave such out."""
    if name in SHARDING_ATTRIBUTES:
        return True
    if isinstance(attribute, ir.ArrayAttr):
        return all("DEFAULT" in str(each) for each in attribute)
    return isinstance(attribute, ir.StringAttr) and not attribute.value


def _order_constants(main: func.FuncOp) -> None:
    """Puts the constants, which folding hoists to the top, in order of first use.

    Folding leaves them in an order that depends on what the module was made from.
    """
    block = main.body.blocks[0]
    constants: dict[modules.AnyValue, ir.Operation] = {
        op.operation.result: op.operation
        for op in block.operations
        if op.operation.name == "stablehlo.constant"
    }
    used: dict[modules.AnyValue, None] = {}

    def visit(op: ir.Operation) -> ir.WalkResult:
        for operand in op.operation.operands:
            if operand in constants:
                used.setdefault(operand)
        return ir.WalkResult.ADVANCE

    first_users = (_first_user(constant, block) for constant in constants.values())
    for op in sorted(filter(None, first_users), key=cmp_to_key(_compare_places)):
        op.walk(visit, ir.WalkOrder.PRE_ORDER)
    for value in reversed(used):
        constants[value].move_before(block.operations[0])


def _first_user(op: ir.Operation, block: ir.Block) -> ir.Operation | None:
    """The first op of a block that reads a result of `op`, or has one inside that does.

    None if nothing reads it.
    """
    users = (_around(use.owner.operation, block) for use in op.result.uses)
    return min(users, key=cmp_to_key(_compare_places), default=None)


def _around(op: ir.Operation, block: ir.Block) -> ir.Operation:
    """The op of a block that is, or holds, another."""
    while op.block != block:
        parent = op.parent
        assert parent is not None
        op = parent.operation
    return op


def _compare_places(one: ir.Operation, other: ir.Operation) -> int:
    """Below 0 if the first op stands before the second, of the same block."""
    return 0 if one == other else -1 if one.is_before_in_block(other) else 1


def _simplify_locations(module: ir.Module) -> None:
    """Leaves of each location the name stack; of an argument's, its name."""
    known: dict[str, ir.Location] = {"": ir.Location.unknown()}

    def simple(location: ir.Location) -> ir.Location:
        name = name_stack(location)
        found = known.get(name)
        if found is None:
            found = known[name] = ir.Location.name(name)
        return found

    def visit(op: ir.Operation) -> ir.WalkResult:
        operation = op.operation
        location = operation.location
        simplified = simple(location)
        if simplified != location:
            operation.location = simplified
        for region in operation.regions:
            for block in region.blocks:
                for argument in block.arguments:
                    argument.set_location(simple(argument.location))
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)


def name_stack(location: ir.Location) -> str:
    """The names that JAX gave to where an op comes from; "" if none.

    A name without a child below it is a name; with a file below it too (``"name"
    ("file.py":3:1)``). Names of Python frames occur only inside call sites, which
    are not looked into.
    """
    if isinstance(location, ir.NameLoc):
        return str(location.name_str)
    if isinstance(location, ir.FusedLoc):
        names = (
            name_stack(part) for part in cast(list[ir.Location], location.locations)
        )
        return next((name for name in names if name), "")
    return ""


def _target(op: ir.Operation) -> str:
    if op.name != CUSTOM_CALL:
        return ""
    return str(ir.StringAttr(op.attributes["call_target_name"]).value)
