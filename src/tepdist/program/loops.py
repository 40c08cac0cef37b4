"""How often a while loop runs, when its counter tells."""

from jaxlib.mlir import ir

from tepdist.program.module import AnyValue


def count_trips(loop: ir.Operation) -> int | None:
    """Iterations of ``while (i < limit) {...; i += step}``; None for any other loop.

    Start, limit and step must be constants and the step positive.
    """
    condition, body = (region.blocks[0] for region in loop.regions)
    ops = [op.operation for op in condition.operations]
    if len(ops) != 2 or ops[0].name != "stablehlo.compare":
        return None
    direction = str(ops[0].attributes["comparison_direction"])
    if "LT" not in direction or ops[1].operands[0] != ops[0].results[0]:
        return None
    counter = _argument_number(ops[0].operands[0], condition)
    if counter is None:
        return None
    limit = _constant(ops[0].operands[1])
    start = _constant(loop.operands[counter])
    step = _step(body, counter)
    if limit is None or start is None or step is None or step <= 0:
        return None
    return max(0, -(-(limit - start) // step))


def _step(body: ir.Block, counter: int) -> int | None:
    """What the body adds to its counter."""
    terminator = body.operations[len(body.operations) - 1].operation
    owner = _producer(terminator.operands[counter])
    if owner is None or owner.name != "stablehlo.add":
        return None
    left, right = owner.operands
    if _argument_number(left, body) == counter:
        return _constant(right)
    if _argument_number(right, body) == counter:
        return _constant(left)
    return None


def _producer(value: AnyValue) -> ir.Operation | None:
    return value.owner.operation if isinstance(value, ir.OpResult) else None


def _argument_number(value: AnyValue, block: ir.Block) -> int | None:
    """Which argument of the block the value is; None if it is none of them."""
    if not isinstance(value, ir.BlockArgument) or value.owner != block:
        return None
    return int(value.arg_number)


def _constant(value: AnyValue) -> int | None:
    """The integer that a scalar constant holds."""
    owner = _producer(value)
    if owner is None or owner.name != "stablehlo.constant":
        return None
    elements = owner.attributes["value"]
    if not isinstance(elements, ir.DenseIntElementsAttr) or len(elements) != 1:
        return None
    return int(elements[0])
