"""States the sharding of every value of a program, for the compiler's partitioner.

Nothing is left to propagation: each op's results carry the plan's sharding, and an
operand that the op wants otherwise passes through a sharding constraint. What the
partitioner then inserts is what the plan was priced on. This file decides nothing.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import sdy

from tepdist.analysis.nodes import is_generated, source_sharding
from tepdist.cost.axis_parts import AxisPart, PartSharding
from tepdist.cost.resharding import resharding_path
from tepdist.lowering.per_device import run_per_device
from tepdist.lowering.placed import Placed
from tepdist.lowering.slices import clamp_starts, hide_slices
from tepdist.plans.types import Stage
from tepdist.program.graph import CONSTRAINT, CONTROL_FLOW, TOKEN, Op, Program
from tepdist.program.module import parse
from tepdist.program.rules import SCATTERING
from tepdist.program.stated import MESH_NAME, SHARDING, mesh_attribute
from tepdist.sharding import Mesh, Sharding

Value = ir.Value[Any]


def annotate(program: Program, stage: Stage, context: ir.Context) -> ir.Module:
    """The program's module with the stage's shardings stated.

    Args:
        program: What was planned.
        stage: The only stage of its plan.
        context: A context with the stablehlo and sdy dialects, in which the module
            is made.
    """
    with context, ir.Location.unknown(context):
        module = parse(program.module)
        _Annotator(program, stage).annotate(module)
        module.operation.verify()
    return module


def walk(block: ir.Block) -> Iterator[ir.Operation]:
    """Ops of a block in `Program` order: an op before the ops of its regions."""
    for op in block.operations:
        operation = op.operation
        if _is_terminator(operation):
            continue
        yield operation
        if operation.name in CONTROL_FLOW:
            for region in operation.regions:
                for inner in region.blocks:
                    yield from walk(inner)


def _is_terminator(operation: ir.Operation) -> bool:
    return operation.name in ("func.return", "stablehlo.return", "sdy.return")


class _Annotator:
    """One walk over one module; holds the attributes made so far."""

    def __init__(self, program: Program, stage: Stage) -> None:
        self._program = program
        self._stage = stage
        self._attributes: dict[Sharding, ir.Attribute] = {}
        # (value index, sharding, block number) to what was made for a reader there.
        self._made: dict[tuple[int, Sharding, int], Value] = {}
        self._blocks: list[ir.Block] = []
        self._kept = _kept_arguments(program)
        self._operations: list[ir.Operation] = []

    def annotate(self, module: ir.Module) -> None:
        main = _main(module)
        operations = self._operations = list(walk(main.regions[0].blocks[0]))
        assert len(operations) == len(self._program.ops)
        self._state_mesh(module)
        self._state_signature(main)
        # In program order throughout, yields too: what is resharded for the first
        # reader stands before all others.
        within: list[int] = []
        for index, operation in enumerate(operations):
            while within and self._program.ops[index].parent != within[-1]:
                last = within.pop()
                self._state_yields(last, operations[last])
            self._state_operands(index, operation)
            operation = operations[index] = self._per_device(index, operation)
            self._state_results(index, operation)
            if operation.name in CONTROL_FLOW:
                within.append(index)
        for index in reversed(within):
            self._state_yields(index, operations[index])
        self._state_terminator(
            main.regions[0].blocks[0], self._program.results, self._stage.results
        )
        self._drop_unused(operations)

    def _state_mesh(self, module: ir.Module) -> None:
        if self._program.mesh is not None:
            return  # the module has it
        with ir.InsertionPoint.at_block_begin(module.body):
            sdy.MeshOp(MESH_NAME, mesh_attribute(self._stage.mesh))

    def _state_signature(self, main: ir.Operation) -> None:
        stage, program = self._stage, self._program
        main.attributes["arg_attrs"] = ir.ArrayAttr.get(
            [
                ir.DictAttr.get({SHARDING: self._attribute(stage.values[value])})
                for value in program.arguments
            ]
        )
        main.attributes["res_attrs"] = ir.ArrayAttr.get(
            [
                ir.DictAttr.get({SHARDING: self._attribute(sharding)})
                for sharding in stage.results
            ]
        )

    def _state_operands(self, index: int, operation: ir.Operation) -> None:
        op = self._program.ops[index]
        wanted = self._stage.operands[index]
        if op.results and is_generated(self._program, op.results[0]):
            return  # only its clones are used
        for position, (value, sharding) in enumerate(
            zip(op.operands, wanted, strict=True)
        ):
            operation.operands[position] = self._lying(
                value, operation.operands[position], sharding, before=operation
            )
        clamp_starts(operation)
        hide_slices(operation, wanted, self._stage.mesh)

    def _per_device(self, index: int, operation: ir.Operation) -> ir.Operation:
        """The op, or the region in which each device runs it on its shards."""
        op = self._program.ops[index]
        if op.rule is None or op.regions:
            return operation
        placed = Placed(
            op.rule,
            self._stage.mesh,
            self._stage.operands[index],
            tuple(self._stage.values[value] for value in op.results),
        )
        if not (op.rule.per_device or _is_scattered(op, placed)):
            return operation
        return run_per_device(
            operation,
            placed,
            [self._attribute(each) for each in (*placed.operands, *placed.results)],
        )

    def _lying(
        self, value: int, given: Value, sharding: Sharding, *, before: ir.Operation
    ) -> Value:
        """The value in this sharding, at hand before an op.

        What is made in one block serves all later readers: a generated value in the
        reader's block, a resharded one where the value itself is, so that what a loop
        reads from outside, or keeps, is resharded once and not on each turn.
        """
        generated = is_generated(self._program, value)
        if not generated and sharding == self._stage.values[value]:
            return given
        if value in self._kept:
            return self._entering(value, sharding, before=before)
        if not generated:
            before = _ancestor(before, _block_of(given))
        key = (value, sharding, self._number(before.block))
        if key not in self._made:
            with ir.InsertionPoint(before):
                if generated:
                    self._made[key] = self._generate(
                        value, given, sharding, before=before
                    )
                else:
                    self._made[key] = self._reshard(value, given, sharding)
        return self._made[key]

    def _entering(
        self, value: int, sharding: Sharding, *, before: ir.Operation
    ) -> Value:
        """What a loop keeps, resharded before it and read from there.

        XLA:GPU moves nothing out of a loop that is larger than what it is made from.
        """
        loop, position = self._kept[value]
        entered = self._operations[loop]
        outer = (value, sharding, self._number(entered.block))
        if outer not in self._made:
            with ir.InsertionPoint(entered):
                self._made[outer] = self._reshard(
                    value, entered.operands[position], sharding
                )
        inner = (value, sharding, self._number(before.block))
        if inner not in self._made:
            # XLA makes it an argument of the loop, which lies as its first reader says.
            with ir.InsertionPoint.at_block_begin(before.block):
                self._made[inner] = sdy.ShardingConstraintOp(
                    self._made[outer], self._attribute(sharding)
                ).result
        return self._made[inner]

    def _reshard(self, value: int, given: Value, target: Sharding) -> Value:
        """The value resharded by exactly the steps that it was priced by.

        Left to find its own way, the partitioner gathers whole tensors for some pairs
        of shardings on two axes. So each step's outcome is stated.

        It starts from a copy of the value: products and gathers leave what they read
        with its sharding written another way, from which XLA knows no all-to-all (as
        in jaxlib 0.12.0.1).
        """
        source, mesh = self._stage.values[value], self._stage.mesh
        shape = self._program.values[value].shape
        given = sdy.ShardingConstraintOp(given, self._attribute(source)).result
        for parts in resharding_path(source, target, shape, mesh=mesh):
            attribute = parts_attribute(parts, mesh)
            given = sdy.ShardingConstraintOp(given, attribute).result
        return given

    def _generate(
        self, value: int, given: Value, sharding: Sharding, *, before: ir.Operation
    ) -> Value:
        """Another copy of a generated value, made in this sharding.

        Generated values cost nothing to make again: each use gets its own, instead of
        a slice of a whole one.
        """
        producer = self._program.values[value].producer
        assert producer is not None
        op, source = self._program.ops[producer], _operation(given)
        operands = [
            self._lying(
                operand,
                source.operands[position],
                source_sharding(self._program, op, sharding),
                before=before,
            )
            for position, operand in enumerate(op.operands)
        ]
        clone = source.clone()
        for position, operand in enumerate(operands):
            clone.operands[position] = operand
        made: Value = clone.results[0]
        if not sharding.dims:
            return made
        stated: Value = sdy.ShardingConstraintOp(made, self._attribute(sharding)).result
        return stated

    def _number(self, block: ir.Block) -> int:
        """A number of this block; blocks themselves do not hash."""
        for number, known in enumerate(self._blocks):
            if known == block:
                return number
        self._blocks.append(block)
        return len(self._blocks) - 1

    def _state_results(self, index: int, operation: ir.Operation) -> None:
        """Follows each result with a constraint that all its readers read.

        So is each argument of its regions: else the first constraint inside that reads
        one decides how the loop carries it. XLA keeps constraints only: it drops what
        is stated on other ops. A constraint that is its value's only reader is what
        Shardy takes for the value's own sharding.
        """
        op = self._program.ops[index]
        if op.kind == CONSTRAINT:
            stated = self._attribute(self._stage.values[op.results[0]])
            operation.attributes["sharding"] = stated
        after = ir.InsertionPoint.after(operation)
        for value, result in zip(op.results, operation.results, strict=True):
            self._state_value(value, result, after)
        for region, given in zip(op.regions, operation.regions, strict=False):
            (block,) = given.blocks
            first = ir.InsertionPoint.at_block_begin(block)
            for value, argument in zip(region.arguments, block.arguments, strict=True):
                self._state_value(value, argument, first)

    def _state_value(self, value: int, given: Value, place: ir.InsertionPoint) -> None:
        described = self._program.values[value]
        if not described.shape or described.dtype == TOKEN:
            return
        if is_generated(self._program, value):
            return
        with place:
            constraint = sdy.ShardingConstraintOp(
                given, self._attribute(self._stage.values[value])
            )
        given.replace_all_uses_except(constraint.result, [constraint.operation])

    def _state_yields(self, index: int, operation: ir.Operation) -> None:
        """A region hands its values out in the sharding of the op's results."""
        op = self._program.ops[index]
        wanted = [self._stage.values[result] for result in op.results]
        blocks = [region.blocks[0] for region in operation.regions]
        yielding = op.result_regions
        for region, block in zip(
            yielding, blocks[len(blocks) - len(yielding) :], strict=True
        ):
            self._state_terminator(block, region.yields, wanted)

    def _state_terminator(
        self, block: ir.Block, values: Sequence[int], wanted: Sequence[Sharding]
    ) -> None:
        terminator = block.operations[len(block.operations) - 1].operation
        for position, (value, sharding) in enumerate(zip(values, wanted, strict=True)):
            terminator.operands[position] = self._lying(
                value, terminator.operands[position], sharding, before=terminator
            )

    def _drop_unused(self, operations: Sequence[ir.Operation]) -> None:
        """Erases generated values that only their clones stand for."""
        for op, operation in reversed(
            list(zip(self._program.ops, operations, strict=True))
        ):
            if len(op.results) != 1 or not is_generated(self._program, op.results[0]):
                continue
            if not list(operation.results[0].uses):
                operation.erase()

    def _attribute(self, sharding: Sharding) -> ir.Attribute:
        if sharding not in self._attributes:
            self._attributes[sharding] = sharding_attribute(sharding)
        return self._attributes[sharding]


def _is_scattered(op: Op, placed: Placed) -> bool:
    """Whether its result is cut over axes that it is reduced over."""
    is_able = op.kind in SCATTERING and len(op.results) == 1
    return is_able and bool(placed.scattered())


def _kept_arguments(program: Program) -> dict[int, tuple[int, int]]:
    """Arguments of loops' regions that a loop keeps: its op, and which operand."""
    return {
        region.arguments[position]: (op.index, position)
        for op in program.ops
        for region in op.regions
        for position in range(len(region.arguments))
        if op.keeps(position)
    }


def _operation(value: Value) -> ir.Operation:
    """The op that defines a value."""
    owner = value.owner
    assert not isinstance(owner, ir.Block)
    return owner.operation


def sharding_attribute(sharding: Sharding) -> ir.Attribute:
    """``#sdy.sharding<@mesh, [{"x"}, {}]>``, closed, in the current context."""
    return _closed([[sdy.AxisRefAttr.get(a) for a in axes] for axes in sharding.dims])


def parts_attribute(sharding: PartSharding, mesh: Mesh) -> ir.Attribute:
    """The same over parts of axes, e.g. ``{"y":(1)2}``."""
    return _closed([[_part_attribute(p, mesh) for p in parts] for parts in sharding])


def _part_attribute(part: AxisPart, mesh: Mesh) -> ir.Attribute:
    if part.size == mesh.axis_size(part.axis):
        return sdy.AxisRefAttr.get(part.axis)
    place = sdy.SubAxisInfoAttr.get(part.pre_size, part.size)
    return sdy.AxisRefAttr.get(part.axis, place)


def _closed(dims: Sequence[Sequence[ir.Attribute]]) -> ir.Attribute:
    return sdy.TensorShardingAttr.get(
        MESH_NAME,
        [sdy.DimensionShardingAttr.get(axes, is_closed=True) for axes in dims],
    )


def _block_of(value: Value) -> ir.Block:
    """The block in which a value is defined."""
    owner = value.owner
    return owner if isinstance(owner, ir.Block) else owner.operation.block


def _ancestor(operation: ir.Operation, block: ir.Block) -> ir.Operation:
    """The op of this block that another is, or lies in."""
    while operation.block != block:
        parent = operation.parent
        assert parent is not None, (
            "readers lie in the block of what they read, or deeper"
        )
        operation = parent.operation
    return operation


def _main(module: ir.Module) -> ir.Operation:
    for op in module.body.operations:
        if op.operation.name != "func.func":
            continue
        if ir.StringAttr(op.attributes["sym_name"]).value == "main":
            return op.operation
    raise AssertionError("a normalised module has a main")
