"""How often a while loop runs, when its counter tells."""

from jaxlib.mlir import ir

from tepdist.program.module import AnyValue

WHILE = "stablehlo.while"


def count_trips(loop: ir.Operation) -> int | None:
    """Iterations of ``while (i < limit) {...; i += step}``; None for any other loop.

    Start, limit and step must be constants and the step positive.
    """
    found = _counting(loop)
    return None if found is None else _trips(found[1])


def counter_values(value: AnyValue) -> range | None:
    """The values that a loop's counter takes in its body; None for any other value."""
    if not isinstance(value, ir.BlockArgument):
        return None
    loop = value.owner.owner
    if loop.operation.name != WHILE or value.owner != loop.regions[1].blocks[0]:
        return None
    found = _counting(loop.operation)
    if found is None or found[0] != value.arg_number:
        return None
    values = found[1]
    # A counter that would overflow has other values too.
    return values if _trips(values) < 2**31 else None


def _trips(values: range) -> int:
    return max(0, -(-(values.stop - values.start) // values.step))


def _counting(loop: ir.Operation) -> tuple[int, range] | None:
    """Which of a loop's values counts, and from where to where."""
    condition, body = (region.blocks[0] for region in loop.regions)
    terminator = condition.operations[len(condition.operations) - 1].operation
    compare = _producer(terminator.operands[0])
    if compare is None or compare.name != "stablehlo.compare":
        return None
    if "LT" not in str(compare.attributes["comparison_direction"]):
        return None
    counter = _argument_number(compare.operands[0], condition)
    if counter is None:
        return None
    limit = constant_integer(compare.operands[1])
    start = constant_integer(loop.operands[counter])
    step = _step(body, counter)
    if limit is None or start is None or step is None or step <= 0:
        return None
    return counter, range(start, limit, step)


def _step(body: ir.Block, counter: int) -> int | None:
    """What the body adds to its counter."""
    terminator = body.operations[len(body.operations) - 1].operation
    owner = _producer(terminator.operands[counter])
    if owner is None or owner.name != "stablehlo.add":
        return None
    left, right = owner.operands
    if _argument_number(left, body) == counter:
        return constant_integer(right)
    if _argument_number(right, body) == counter:
        return constant_integer(left)
    return None


def _producer(value: AnyValue) -> ir.Operation | None:
    return value.owner.operation if isinstance(value, ir.OpResult) else None


def _argument_number(value: AnyValue, block: ir.Block) -> int | None:
    """Which argument of the block the value is; None if it is none of them."""
    if not isinstance(value, ir.BlockArgument) or value.owner != block:
        return None
    return int(value.arg_number)


def constant_integer(value: AnyValue) -> int | None:
    """The integer that a scalar constant holds; None if it is no such."""
    owner = _producer(value)
    if owner is None or owner.name != "stablehlo.constant":
        return None
    elements = owner.attributes["value"]
    if not isinstance(elements, ir.DenseIntElementsAttr) or len(elements) != 1:
        return None
    return int(elements[0])
