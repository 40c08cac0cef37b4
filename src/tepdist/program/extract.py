"""Reads a normalised module into the frozen graph of `Program`."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from jaxlib.mlir import ir

from tepdist.errors import ProgramError
from tepdist.garbage import collection_paused
from tepdist.program import module as modules
from tepdist.program.collectives import collective_axes
from tepdist.program.graph import (
    COLLECTIVES,
    CONTROL_FLOW,
    MANUAL,
    TOKEN,
    Op,
    Program,
    Region,
    Rule,
    Value,
)
from tepdist.program.loops import count_trips
from tepdist.program.module import AnyValue
from tepdist.program.normalise import main_function, name_stack
from tepdist.program.pins import PINNED, held_rule, pinned_rule
from tepdist.program.rules import RULE_ATTRIBUTE, own_rule, stated_rule
from tepdist.program.signature import Signatures
from tepdist.program.stated import argument_shardings, read_meshes
from tepdist.program.uneven import allow_uneven
from tepdist.sharding import Mesh

ADD_RULES = "func.func(sdy-populate-op-sharding-rules)"

Type = tuple[tuple[int, ...], str]  # shape, dtype


def extract(bytecode: bytes, name: str) -> Program:
    """The graph of a normalised module.

    The sharding rules are put on what is parsed from the bytes, not into them.

    Args:
        bytecode: Of what `normalise` left.
        name: Of the program, for people.

    Raises:
        ProgramError: if a value is no tensor, or its sharding is stated over axes that
            do not divide it.
    """
    with modules.new_context(), collection_paused():
        module = modules.parse(bytecode)
        modules.run_passes(module, ADD_RULES)
        main = main_function(module)
        meshes = read_meshes(module)
        mesh = next(iter(meshes.values()), None)
        program = _read_block(main.body.blocks[0], mesh, name)
        stated = [
            None if each is None else held_rule(program.values[value].shape, each)
            for value, each in zip(
                program.arguments, argument_shardings(main, meshes), strict=False
            )
        ]
    return replace(program, module=bytecode, argument_rules=tuple(stated))


def _read_block(block: ir.Block, mesh: Mesh | None, name: str) -> Program:
    """The graph of a block that reads nothing from outside."""
    builder = _Builder(mesh)
    arguments = tuple(
        builder.add_value(argument, f"arg{i}", None)
        for i, argument in enumerate(block.arguments)
    )
    results = builder.add_block(block, None)
    return Program(
        name=name,
        module=b"",
        jaxlib_version=modules.jaxlib_version(),
        ops=tuple(builder.ops[i] for i in range(len(builder.ops))),
        values=tuple(builder.values),
        arguments=arguments,
        results=results,
        mesh=mesh,
    )


@dataclass
class _Builder:
    """What has been read so far; thrown away once the graph is complete."""

    mesh: Mesh | None
    ops: dict[int, Op] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)
    indices: dict[AnyValue, int] = field(default_factory=dict)
    types: dict[ir.Type, Type] = field(default_factory=dict)
    rules: dict[str, Rule | None] = field(default_factory=dict)
    signatures: Signatures = field(default_factory=lambda: Signatures(RULE_ATTRIBUTE))
    num_ops: int = 0

    def add_block(self, block: ir.Block, parent: int | None) -> tuple[int, ...]:
        """Reads the ops of a block; the values that its terminator yields."""
        *body, terminator = block.operations
        for op in body:
            self._add_op(op.operation, parent)
        return self._indices(list(terminator.operands))

    def add_value(self, value: AnyValue, name: str, producer: int | None) -> int:
        index = len(self.values)
        type_ = value.type
        known = self.types.get(type_)
        if known is None:
            known = self.types[type_] = _read_type(type_, name)
        self.values.append(Value(index, name, *known, producer))
        self.indices[value] = index
        return index

    def _add_op(self, op: ir.Operation, parent: int | None) -> None:
        index = self.num_ops
        self.num_ops += 1
        kind = op.name
        label = f"{kind.rpartition('.')[2]}.{index}"
        read, made = list(op.operands), list(op.results)
        operands = self._indices(read)
        results = tuple(
            [
                self.add_value(result, f"{label}#{i}" if i else label, index)
                for i, result in enumerate(made)
            ]
        )
        signature = self.signatures.of(op, read, made)
        self.ops[index] = Op(
            index=index,
            kind=kind,
            operands=operands,
            results=results,
            rule=self._rule(op, signature, operands + results),
            signature=signature,
            scope=name_stack(op.location),
            parent=parent,
            regions=self._add_regions(op, label, index) if kind in CONTROL_FLOW else (),
            trips=count_trips(op) if kind == "stablehlo.while" else None,
            body=self._body(op, label) if kind == MANUAL else None,
            axes=self._axes(op) if kind in COLLECTIVES else (),
        )

    def _body(self, op: ir.Operation, label: str) -> Program:
        (block,) = op.regions[0].blocks
        return _read_block(block, self.mesh, label)

    def _axes(self, op: ir.Operation) -> tuple[str, ...]:
        return () if self.mesh is None else collective_axes(op, self.mesh)

    def _add_regions(
        self, op: ir.Operation, label: str, index: int
    ) -> tuple[Region, ...]:
        regions = []
        num_arguments = 0
        for region in op.regions:
            (block,) = region.blocks
            first = num_arguments
            num_arguments += len(block.arguments)
            arguments = tuple(
                self.add_value(argument, f"{label}/{first + i}", index)
                for i, argument in enumerate(block.arguments)
            )
            regions.append(Region(arguments, self.add_block(block, index)))
        return tuple(regions)

    def _indices(self, values: Iterable[AnyValue]) -> tuple[int, ...]:
        return tuple([self.indices[value] for value in values])

    def _rule(
        self, op: ir.Operation, signature: str, values: tuple[int, ...]
    ) -> Rule | None:
        """The op's rule; ops of one signature share it."""
        if signature not in self.rules:
            shapes = [self.values[value].shape for value in values]
            self.rules[signature] = self._find_rule(op, shapes)
        return self.rules[signature]

    def _find_rule(
        self, op: ir.Operation, shapes: list[tuple[int, ...]]
    ) -> Rule | None:
        if op.name in PINNED and self.mesh is not None:
            return pinned_rule(op, self.mesh)
        count = len(op.operands)
        rule = stated_rule(op, shapes) or own_rule(
            op.name, shapes[:count], shapes[count:]
        )
        return None if rule is None else allow_uneven(rule, op)


def _read_type(type_: ir.Type, name: str) -> Type:
    """Shape and dtype of a value's type.

    Raises:
        ProgramError: unless it is a token or a tensor.
    """
    if str(type_) == "!stablehlo.token":
        return (), TOKEN
    if not isinstance(type_, ir.RankedTensorType):
        raise ProgramError(
            f"value {name} has type {type_}, which is no tensor",
            hint="take what makes it out of the program",
        )
    return tuple(type_.shape), str(type_.element_type)
