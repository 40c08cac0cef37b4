"""Drops what loops and branches carry for nobody.

XLA drops it too, so nothing may be priced for it. Folding removes an op that nothing
reads, but not one whose result only goes round a loop.
"""

from collections.abc import Iterable

from jaxlib.mlir import ir

from tepdist.program.graph import CONTROL_FLOW, CUSTOM_CALL, TOKEN
from tepdist.program.inline import find_ops
from tepdist.program.module import AnyValue

WHILE = "stablehlo.while"
RETURN = "stablehlo.return"


def drop_dead_results(root: ir.OpView) -> bool:
    """Drops results of loops and branches below `root` that nothing reads, in place.

    What computed them is left to folding, after which there may be more.

    Args:
        root: Folded: what has results that nothing reads is there for its effects.

    Returns:
        Whether there were any.
    """
    has_dropped = False
    # Inner before outer: the outer is made anew around its regions.
    for op in reversed(find_ops(root, CONTROL_FLOW)):
        live = _live_in_loop(op) if op.name == WHILE else _read(op)
        if len(live) < len(op.results):
            _keep(op, sorted(live))
            has_dropped = True
    return has_dropped


def _read(op: ir.Operation) -> set[int]:
    """Results that something reads; tokens stand for effects."""
    return {
        number
        for number, result in enumerate(op.results)
        if TOKEN in str(result.type) or _is_used(result)
    }


def _live_in_loop(loop: ir.Operation) -> set[int]:
    """Carried values that are read after the loop, or decide what is."""
    condition, body = (region.blocks[0] for region in loop.regions)
    *ops, terminator = (op.operation for op in body.operations)
    live = _read(loop)
    live |= {n for n, argument in enumerate(condition.arguments) if _is_used(argument)}
    needs = _Needs(body)
    needs.add(operand for op in ops if _acts(op) for operand in _reads(op))
    reached: set[int] = set()
    while live - reached or needs.arguments - live:
        live |= needs.arguments
        needs.add(terminator.operands[number] for number in live - reached)
        reached |= live
    return live


class _Needs:
    """Arguments of a block that some of its values are made of, so far."""

    def __init__(self, block: ir.Block) -> None:
        self._block = block
        self._seen: set[AnyValue] = set()
        self.arguments: set[int] = set()

    def add(self, values: Iterable[AnyValue]) -> None:
        waiting = list(values)
        while waiting:
            value = waiting.pop()
            if value in self._seen:
                continue
            self._seen.add(value)
            if isinstance(value, ir.BlockArgument):
                if value.owner == self._block:
                    self.arguments.add(value.arg_number)
                continue
            owner = value.owner
            assert not isinstance(owner, ir.Block)
            if owner.operation.block == self._block:
                waiting.extend(_reads(owner.operation))


def _reads(op: ir.Operation) -> list[AnyValue]:
    """What an op and the ops in its regions read."""
    read: list[AnyValue] = []

    def visit(inner: ir.Operation) -> ir.WalkResult:
        read.extend(inner.operation.operands)
        return ir.WalkResult.ADVANCE

    op.walk(visit)
    return read


def _acts(op: ir.Operation) -> bool:
    """Whether an op does something besides making its results."""
    if not any(_is_used(result) for result in op.results):
        return True
    if any(TOKEN in str(value.type) for value in (*op.operands, *op.results)):
        return True
    return any(
        "has_side_effect" in call.attributes
        and ir.BoolAttr(call.attributes["has_side_effect"]).value
        for call in find_ops(op, {CUSTOM_CALL})
    )


def _is_used(value: AnyValue) -> bool:
    return next(iter(value.uses), None) is not None


def _keep(op: ir.Operation, live: list[int]) -> None:
    """Makes a loop or branch anew with some of its results."""
    is_loop = op.name == WHILE
    operands = [op.operands[n] for n in live] if is_loop else list(op.operands)
    with op.location, ir.InsertionPoint(op):
        made = ir.Operation.create(
            op.name,
            results=[op.results[n].type for n in live],
            operands=operands,
            attributes={name: op.attributes[name] for name in op.attributes},
            regions=len(op.regions),
        )
    for number, (old, new) in enumerate(zip(op.regions, made.regions, strict=True)):
        block = old.blocks[0]
        if is_loop:
            _drop_arguments(block, op, live)
        if not is_loop or number == 1:
            _return_only(block, live)
        block.append_to(new)
    for number, result in zip(live, made.results, strict=True):
        op.results[number].replace_all_uses_with(result)
    op.erase()


def _drop_arguments(block: ir.Block, loop: ir.Operation, live: list[int]) -> None:
    """Leaves the live ones; what read another reads its first value, for nobody."""
    for number in reversed(range(len(loop.operands))):
        if number not in live:
            block.arguments[number].replace_all_uses_with(loop.operands[number])
            block.erase_argument(number)


def _return_only(block: ir.Block, live: list[int]) -> None:
    terminator = block.operations[len(block.operations) - 1].operation
    kept = [terminator.operands[number] for number in live]
    location = terminator.location
    terminator.erase()
    with location, ir.InsertionPoint(block):
        ir.Operation.create(RETURN, operands=kept)
