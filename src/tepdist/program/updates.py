"""From the next value of a state argument back to its gradient."""

from collections.abc import Iterator
from dataclasses import dataclass

from tepdist.program.graph import CONTROL_FLOW, Op, Program

UPDATE_SLICE = "stablehlo.dynamic_update_slice"


@dataclass(frozen=True, slots=True)
class WayBack:
    """What an argument's next value is made of, element by element.

    Attributes:
        values: Values of the argument's size on the way, or of the slices of it that a
            loop makes, in any order.
        reducing: Ops at its end: the products and sums that made the gradient.
    """

    values: frozenset[int]
    reducing: frozenset[int]


def way_back(program: Program, result: int) -> WayBack:
    """The way back from an argument's next value.

    An optimizer's update is elementwise: this walk meets the gradient, transposed
    perhaps, and ends at the product or sum that made it. A loop over layers writes the
    gradient of each into its place.

    Args:
        program: Any.
        result: Value that replaces the argument.
    """
    todo = [(result, program.values[result].num_elements)]
    seen, reducing = set[int](), set[int]()
    while todo:
        current, size = todo.pop()
        value = program.values[current]
        if current in seen or value.num_elements != size:
            continue
        seen.add(current)
        if value.producer is None:
            continue
        op = program.ops[value.producer]
        rule = op.rule
        if rule is not None and any(rule.sizes[each] > 1 for each in rule.reduction):
            reducing.add(op.index)
        elif op.kind == UPDATE_SLICE:
            whole, part = op.operands[:2]
            todo += [(whole, size), (part, program.values[part].num_elements)]
        else:
            todo += [(each, size) for each in _made_of(op, current)]
    return WayBack(frozenset(seen), frozenset(reducing))


def _made_of(op: Op, value: int) -> Iterator[int]:
    """What a value of an op is made of: in control flow, also by the ops inside."""
    if op.kind not in CONTROL_FLOW:
        yield from op.operands
        return
    for region in op.regions:
        if value in op.results and len(region.yields) == len(op.results):
            yield region.yields[op.results.index(value)]
        elif value in region.arguments:
            position = region.arguments.index(value)
            yield op.operands[position]
            if position < len(region.yields):
                yield region.yields[position]
