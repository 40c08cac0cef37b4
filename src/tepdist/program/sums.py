"""Puts matrix products that are added into one op, so that their sum is reduced once.

``dq @ wq + dk @ wk + dv @ wv``, each product contracted over sharded dims, would take
three all-reduces where one of the sum is enough, and XLA's partitioner makes each
product whole by itself. So the products and their adds go into a
``sdy.named_computation`` that is planned as one op, whose contracted dims are cut
together. Whatever else is added to them is added afterwards.

A scatter that adds to nothing is a product too, of a one-hot matrix that its indices
stand for: so the two gradients of an embedding that is used at both ends are one sum.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy, stablehlo

from tepdist.program.graph import MANUAL, Rule
from tepdist.program.inline import find_ops, splice
from tepdist.program.module import AnyValue
from tepdist.program.signature import single_op

KIND = "sdy.named_computation"
NAME = "tepdist.sum_of_products"
ADD, PRODUCT, SCATTER, TRANSPOSE, CONSTANT = (
    "stablehlo.add",
    "stablehlo.dot_general",
    "stablehlo.scatter",
    "stablehlo.transpose",
    "stablehlo.constant",
)


@dataclass(frozen=True, slots=True)
class _Product:
    """A product, and what its result goes through before it is added.

    Attributes:
        ops: The product or scatter, and the transpose of its result if there is one.
        operands: Its two: the left and the right, or the indices and the updates.
        kept: For each dim of what is added the operand dims that it is, as (operand,
            dim): of both operands where it is a batch dim, of none where it is what
            the indices point at.
        contracted: Dims of the first and of the second operand that are summed over.
    """

    ops: tuple[ir.Operation, ...]
    operands: tuple[AnyValue, AnyValue]
    kept: tuple[tuple[tuple[int, int], ...], ...]
    contracted: tuple[tuple[int, int], ...]

    @property
    def shapes(self) -> tuple[list[int], list[int]]:
        first, second = self.operands
        return _shape(first), _shape(second)


def outline_sums(root: ir.OpView) -> None:
    """Outlines every sum of products below `root`, in place.

    Manual computations keep theirs: what each device does in them is settled.
    """
    found = find_ops(root, {PRODUCT, SCATTER, MANUAL})
    regions = [op for op in found if op.name == MANUAL]
    settled = {
        op.results[0] for each in regions for op in find_ops(each, {PRODUCT, SCATTER})
    }
    products: dict[AnyValue, int] = {}
    sums: dict[AnyValue, ir.Operation] = {}
    for op in found:
        if op.name == MANUAL or op.results[0] in settled:
            continue
        whole = _sum_of(op)
        # Those of scalars stand in the bodies of reductions.
        if whole is not None and _shape(whole.results[0]):
            value = whole.results[0]
            products[value] = products.get(value, 0) + 1
            sums[value] = whole
    for value, whole in sums.items():
        if products[value] > 1:
            _outline(list(_adds(whole)))


def _sum_of(product: ir.Operation) -> ir.Operation | None:
    """The last of the adds that a product, or its transpose, goes into; None if none.

    Nothing but the next add reads what there is between them.
    """
    reader = _only_reader(product, TRANSPOSE) or product
    whole: ir.Operation | None = None
    add = _only_reader(reader, ADD)
    while add is not None and (whole is None or add.block == whole.block):
        whole = add
        add = _only_reader(add, ADD)
    return whole


def _only_reader(op: ir.Operation, kind: str) -> ir.Operation | None:
    """The op of this kind that reads an op's one result, if nothing else does."""
    if len(op.results) != 1:
        return None
    uses = list(op.results[0].uses)
    reader = uses[0].owner.operation if len(uses) == 1 else None
    return reader if reader is not None and reader.name == kind else None


def _adds(root: ir.Operation) -> Iterator[ir.Operation]:
    """An add and those of which it alone reads the results, operands first."""
    for operand in root.operands:
        inner = _only_read(operand, ADD)
        if inner is not None and inner.block == root.block:
            yield from _adds(inner)
    yield root


def _only_read(value: AnyValue, kind: str) -> ir.Operation | None:
    """The op of this kind that makes a value, if the value is read once."""
    owner = value.owner
    if isinstance(owner, ir.Block) or owner.operation.name != kind:
        return None
    return owner.operation if len(list(value.uses)) == 1 else None


def _outline(adds: Sequence[ir.Operation]) -> None:
    """Outlines one sum, of which the last add is the whole."""
    root = adds[-1]
    made = {add.results[0] for add in adds}
    leaves = [v for add in adds for v in add.operands if v not in made]
    products: list[_Product] = []
    others: list[AnyValue] = []
    for leaf in leaves:
        product = _product(leaf, root.block)
        if product is None:
            others.append(leaf)
        else:
            products.append(product)
    if len(products) < 2 or not any(size > 1 for size in _shared_sizes(products)):
        return
    with root.location, ir.InsertionPoint(root):
        total = _computation(root, products)
        if others:
            rest = others[0]
            for other in others[1:]:
                rest = stablehlo.add(rest, other)
            total = stablehlo.add(rest, total)
    root.results[0].replace_all_uses_with(total)
    for add in reversed(adds):
        add.erase()
    for product in products:
        for op in reversed(product.ops):
            op.erase()


def _product(value: AnyValue, block: ir.Block) -> _Product | None:
    """The product that a value is, if nobody else reads it and it contracts a dim."""
    scatter = _only_read(value, SCATTER)
    if scatter is not None:
        fits = scatter.block == block and _adds_rows(scatter)
        return _scattered(scatter) if fits else None
    transpose = _only_read(value, TRANSPOSE)
    dot = _only_read(value if transpose is None else transpose.operands[0], PRODUCT)
    if dot is None or dot.block != block:
        return None
    found = _multiplied(dot, transpose)
    return found if found.contracted else None


def _multiplied(dot: ir.Operation, transpose: ir.Operation | None) -> _Product:
    numbers = stablehlo.DotDimensionNumbers(dot.attributes["dot_dimension_numbers"])
    batch = list(
        zip(
            numbers.lhs_batching_dimensions,
            numbers.rhs_batching_dimensions,
            strict=True,
        )
    )
    contracted = tuple(
        zip(
            numbers.lhs_contracting_dimensions,
            numbers.rhs_contracting_dimensions,
            strict=True,
        )
    )
    left, right = dot.operands
    kept: list[tuple[tuple[int, int], ...]] = [((0, a), (1, b)) for a, b in batch]
    for operand, value in enumerate((left, right)):
        used = {pair[operand] for pair in (*batch, *contracted)}
        kept += [((operand, d),) for d in range(len(_shape(value))) if d not in used]
    if transpose is None:
        return _Product((dot,), (left, right), tuple(kept), contracted)
    order = ir.DenseI64ArrayAttr(transpose.attributes["permutation"])
    added = tuple(kept[dim] for dim in order)
    return _Product((dot, transpose), (left, right), added, contracted)


def _adds_rows(scatter: ir.Operation) -> bool:
    """Whether it adds whole rows, which indices of one number point at, to nothing."""
    if len(scatter.operands) != 3 or single_op(scatter) != ADD:
        return False
    zeros, indices, _ = scatter.operands
    numbers = stablehlo.ScatterDimensionNumbers(
        scatter.attributes["scatter_dimension_numbers"]
    )
    shape = _shape(indices)
    return (
        _is_zero(zeros)
        and list(numbers.inserted_window_dims) == [0]
        and list(numbers.scattered_dims_to_operand_dims) == [0]
        and not list(numbers.input_batching_dims)
        and numbers.index_vector_dim == len(shape) - 1 >= 1
        and shape[-1] == 1
    )


def _is_zero(value: AnyValue) -> bool:
    """Whether all elements of a tensor are a zero that stands in the program."""
    owner = value.owner
    if isinstance(owner, ir.Block):
        return False
    if owner.operation.name == "stablehlo.broadcast_in_dim":
        return _is_zero(owner.operation.operands[0])
    if owner.operation.name != CONSTANT:
        return False
    elements = owner.operation.attributes["value"]
    if not isinstance(elements, ir.DenseElementsAttr) or not elements.is_splat:
        return False
    return not np.any(np.array(elements))


def _scattered(scatter: ir.Operation) -> _Product:
    _, indices, updates = scatter.operands
    numbers = stablehlo.ScatterDimensionNumbers(
        scatter.attributes["scatter_dimension_numbers"]
    )
    windows = list(numbers.update_window_dims)
    rows = [dim for dim in range(len(_shape(updates))) if dim not in windows]
    kept = ((), *(((1, dim),) for dim in windows))
    return _Product((scatter,), (indices, updates), kept, tuple(enumerate(rows)))


def _shared_sizes(products: Sequence[_Product]) -> list[int]:
    """Into how many parts the contracted dims of all products can be cut together.

    Products have the contracted dims of the same position in common.
    """
    return [
        math.gcd(
            *(
                product.shapes[0][left]
                for product, (left, _) in zip(products, pairs, strict=True)
            )
        )
        for pairs in zip(*(product.contracted for product in products), strict=False)
    ]


def inline_sums(root: ir.Module | ir.OpView) -> None:
    """Puts the ops of every sum of products where it stands: undoes `outline_sums`."""
    for op in find_ops(root, {KIND}):
        if is_sum(op):
            op.location = ir.Location.unknown()  # its ops have their full names
            splice(op.regions[0].blocks[0], op)


def _computation(root: ir.Operation, products: Sequence[_Product]) -> AnyValue:
    """The sum as one op, where the insertion point is."""
    operands = [value for product in products for value in product.operands]
    computation = sdy.NamedComputationOp([root.results[0].type], NAME, operands)
    types = [operand.type for operand in operands]
    block = computation.regions[0].blocks.append(
        *types, arg_locs=[root.location] * len(types)
    )
    with ir.InsertionPoint(block):
        arguments = iter(block.arguments)
        parts = [_clone(product.ops, arguments) for product in products]
        total = parts[0]
        for part in parts[1:]:
            total = stablehlo.add(total, part)
        sdy.ReturnOp([total])
    made: AnyValue = computation.results[0]
    return made


def _clone(ops: Sequence[ir.Operation], arguments: Iterator[AnyValue]) -> AnyValue:
    first = ops[0].clone()
    if first.name == SCATTER:
        with ir.InsertionPoint(first):
            first.operands[0] = splat(first.results[0].type, 0)
    count = len(first.operands)
    first.operands[count - 2], first.operands[count - 1] = (
        next(arguments),
        next(arguments),
    )
    result: AnyValue = first.results[0]
    for op in ops[1:]:
        copy = op.clone()
        copy.operands[0] = result
        result = copy.results[0]
    return result


def splat(type_: ir.Type, number: int) -> AnyValue:
    """A tensor that holds one number throughout, made where the insertion point is."""
    scalar = ir.RankedTensorType(type_).element_type
    if isinstance(scalar, ir.ComplexType):
        text = f"dense<({number}.0, 0.0)> : {type_}"
        value = ir.DenseElementsAttr(ir.Attribute.parse(text))
    elif isinstance(scalar, ir.FloatType):
        value = ir.DenseElementsAttr.get_splat(type_, ir.FloatAttr.get(scalar, number))
    else:
        number_ = ir.IntegerAttr.get(scalar, number)
        value = ir.DenseElementsAttr.get_splat(type_, number_)
    made: AnyValue = stablehlo.constant(value)
    return made


def is_sum(op: ir.Operation) -> bool:
    """Whether an op is a sum of products that `outline_sums` made."""
    return op.name == KIND and ir.StringAttr(op.attributes["name"]).value == NAME


def sum_rule(op: ir.Operation) -> Rule:
    """The rule of a sum of products: operands in pairs, one factor for each result dim.

    Then one for each contracted dim that the products share, which all of them cut
    together, and those that none cuts.
    """
    products = list(_products(op))
    result = _shape(op.results[0])
    shared = _shared_sizes(products)
    sizes = [*result, *shared]
    next_factor = count(len(sizes))
    blocked = []
    operands: list[tuple[tuple[int, ...], ...]] = []
    for product in products:
        dims: list[list[tuple[int, ...]]] = [[()] * len(s) for s in product.shapes]
        for factor, places in enumerate(product.kept):
            for operand, dim in places:
                dims[operand][dim] = (factor,)
        for position, (left, right) in enumerate(product.contracted):
            cut = (len(result) + position,) if position < len(shared) else ()
            size = product.shapes[0][left]
            rest = size // shared[position] if cut else size
            if rest > 1:
                whole = next(next_factor)
                sizes.append(rest)
                blocked.append(whole)
                cut = (*cut, whole)
            dims[0][left] = dims[1][right] = cut
        operands += (tuple(each) for each in dims)
    return Rule(
        sizes=tuple(sizes),
        operands=tuple(operands),
        results=(tuple((factor,) for factor in range(len(result))),),
        reduction=frozenset(range(len(result), len(result) + len(shared))),
        blocked=frozenset(blocked),
        per_device=True,
    )


def _products(op: ir.Operation) -> Iterator[_Product]:
    for inner in op.regions[0].blocks[0].operations:
        if inner.operation.name == SCATTER:
            yield _scattered(inner.operation)
        if inner.operation.name == PRODUCT:
            (use,) = inner.operation.results[0].uses
            user = use.owner.operation
            transpose = user if user.name == TRANSPOSE else None
            yield _multiplied(inner.operation, transpose)


def _shape(value: AnyValue) -> list[int]:
    return list(ir.RankedTensorType(value.type).shape)
