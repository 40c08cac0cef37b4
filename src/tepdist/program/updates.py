"""From the next value of a state argument back to its gradient."""

from dataclasses import dataclass

from tepdist.program.graph import Program


@dataclass(frozen=True, slots=True)
class WayBack:
    """What an argument's next value is made of, element by element.

    Attributes:
        values: Values of the argument's size on the way, in any order.
        reducing: Ops at its end: the products and sums that made the gradient.
    """

    values: frozenset[int]
    reducing: frozenset[int]


def way_back(program: Program, result: int) -> WayBack:
    """The way back from an argument's next value.

    An optimizer's update is elementwise: this walk meets the gradient, transposed
    perhaps, and ends at the product or sum that made it.

    Args:
        program: Any.
        result: Value that replaces the argument.
    """
    size = program.values[result].num_elements
    todo, seen, reducing = [result], set(), set()
    while todo:
        current = todo.pop()
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
        else:
            todo.extend(op.operands)
    return WayBack(frozenset(seen), frozenset(reducing))
