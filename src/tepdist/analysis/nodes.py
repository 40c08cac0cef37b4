"""Nodes: what can be sharded, one level above ops.

A node is an op, an argument, or a value carried by a control-flow op, with the
factors its tensors share. Three kinds of op make no node:

* *Generated* values (constants, iota, broadcasts) cost nothing to make again, so each
  use has its own in the sharding it wants. A use of a broadcast counts as a use of
  what was broadcast. One that is a result of the program has a node as such.
* Ops on scalars alone lie on every device.
* Control flow: its region ops are nodes like any other, tied to the op's operands and
  results by one *slot* node for each carried value. An optimization barrier, whose
  operands have nothing to do with one another, is as many slots.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tepdist.program.graph import CONTROL_FLOW, Op, Program, Rule
from tepdist.sharding import Sharding

T = TypeVar("T", int, str)
Dims = tuple[tuple[int, ...], ...]  # per dim of a tensor its factors, major first


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value as a node sees it: each dim made of the node's factors."""

    value: int
    dims: Dims


@dataclass(frozen=True, slots=True)
class Node:
    """Something whose tensors are sharded together.

    Attributes:
        op: The op it stands for; None for arguments and slots.
        sizes: Extent of each factor.
        inputs: Values it reads (broadcasts seen through).
        outputs: Values it defines.
        reduction: Factors that its outputs lack because they were reduced away.
        blocked: Factors that may not be sharded.
        uneven: Factors that may be cut into unequal parts, as in `Rule`. None of
            arguments and results, which JAX holds in equal parts only.
        trips: How often it runs per step.
        inner_trips: How often its outputs but the first come to be per step, if it is
            the slot of a loop; else as `trips`.
        pointwise: Whether each output element depends on the matching elements of
            the inputs alone, and any sharding will do.
        pinned: Mesh axes that the program has placed, each with the factor it must cut.
    """

    op: int | None
    sizes: tuple[int, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    reduction: frozenset[int] = frozenset()
    blocked: frozenset[int] = frozenset()
    uneven: frozenset[int] = frozenset()
    trips: int = 1
    inner_trips: int = 1
    pointwise: bool = False
    pinned: tuple[tuple[str, int | None], ...] = ()


# Trips of a loop whose condition tells no count.
UNKNOWN_TRIPS = 1
BARRIER = "stablehlo.optimization_barrier"
BROADCAST = "stablehlo.broadcast_in_dim"
SLOTTED = CONTROL_FLOW | {BARRIER}
_SOURCES = frozenset({"stablehlo.constant", "stablehlo.iota"})
_GENERATING = _SOURCES | {BROADCAST}


def is_generated(program: Program, value: int) -> bool:
    """Whether each use of this value makes its own."""
    producer = program.values[value].producer
    return producer is not None and program.ops[producer].kind in _GENERATING


def generated_values(program: Program) -> frozenset[int]:
    """All values of which each use makes its own."""
    return frozenset(
        [value for op in program.ops if op.kind in _GENERATING for value in op.results]
    )


def source_dims(
    rule: Rule, dims: tuple[tuple[T, ...], ...]
) -> tuple[tuple[T, ...], ...]:
    """What cuts a broadcast's operand, given what cuts its result.

    Args:
        rule: The broadcast's.
        dims: Per dim of the result, factors of whoever uses it, or mesh axes.
    """
    used_by: dict[int, tuple[T, ...]] = {}
    for factors, used in zip(rule.results[0], dims, strict=True):
        if len(factors) == 1:
            used_by[factors[0]] = used
    return tuple(
        used_by.get(factors[0], ()) if len(factors) == 1 else ()
        for factors in rule.operands[0]
    )


def source_sharding(program: Program, broadcast: Op, wanted: Sharding) -> Sharding:
    """How a broadcast's operand must lie for its result to lie as wanted."""
    (source,) = broadcast.operands
    if broadcast.rule is None:
        return Sharding.replicated(len(program.values[source].shape))
    return Sharding(source_dims(broadcast.rule, wanted.dims))


def run_counts(program: Program) -> list[int]:
    """How often each op runs per step: the product of the loops around it."""
    counts: list[int] = []
    for op in program.ops:
        if op.parent is None:
            counts.append(1)
            continue
        counts.append(counts[op.parent] * _turns(program.ops[op.parent]))
    return counts


def _turns(op: Op) -> int:
    """How often the regions of a control-flow op run each time that it runs."""
    if op.kind != "stablehlo.while":
        return 1
    return max(UNKNOWN_TRIPS if op.trips is None else op.trips, 1)


def build_nodes(program: Program, next_values: Mapping[int, int]) -> tuple[Node, ...]:
    """All nodes of a program: arguments first, then ops and slots in op order.

    Args:
        program: Any.
        next_values: For each state argument's value, the result that replaces it; it
            must come out as the argument lies.
    """
    counts = run_counts(program)
    handed_out = Counter(program.results) - Counter(next_values.values())
    builder = _Builder(program, frozenset((*program.arguments, *handed_out)))
    nodes = []
    rules = program.argument_rules or (None,) * len(program.arguments)
    for value, rule in zip(program.arguments, rules, strict=True):
        follows = (next_values[value],) if value in next_values else ()
        held = builder.held((value,), follows, trips=1)
        nodes.append(held if rule is None else _placed(held, rule))
    for op in program.ops:
        if op.kind in SLOTTED:
            nodes.extend(builder.slots(op, counts[op.index]))
        elif not builder.makes_no_node(op):
            nodes.append(builder.of_op(op, counts[op.index]))
    replacing = set(next_values.values())
    for value in dict.fromkeys(program.results):
        if value in builder.generated and value not in replacing:
            nodes.append(builder.held((value,), (value,), trips=1))
    return tuple(nodes)


class _Builder:
    """Makes nodes; remembers what ops of one signature have in common.

    Attributes:
        generated: Values of which each use makes its own.
    """

    def __init__(self, program: Program, even: Collection[int]) -> None:
        """Prepares to make nodes.

        Args:
            program: Whose.
            even: Values that are cut into equal parts only.
        """
        self._program = program
        self._even = even
        values = program.values
        self._scalars = frozenset([v.index for v in values if not v.shape])
        self.generated = generated_values(program)
        self._pointwise: dict[str, bool] = {}
        self._sources: dict[tuple[str, Dims], Dims] = {}

    def makes_no_node(self, op: Op) -> bool:
        if not self.generated.isdisjoint(op.results):
            return True
        return self._scalars.issuperset((*op.operands, *op.results))

    def held(
        self,
        outputs: tuple[int, ...],
        inputs: tuple[int, ...],
        *,
        trips: int,
        inner_trips: int | None = None,
        pointwise: bool = False,
    ) -> Node:
        """A node that only holds tensors of one shape: a factor for each dim."""
        shape = self._program.values[outputs[0]].shape
        dims: Dims = tuple((factor,) for factor in range(len(shape)))
        defined = tuple(Tensor(value, dims) for value in outputs)
        return Node(
            op=None,
            sizes=shape,
            inputs=self._resolved(inputs, (dims,) * len(inputs)),
            outputs=defined,
            uneven=self._uneven(frozenset(range(len(shape))), defined),
            trips=trips,
            inner_trips=trips if inner_trips is None else inner_trips,
            pointwise=pointwise,
        )

    def _uneven(
        self, allowed: frozenset[int], outputs: Sequence[Tensor]
    ) -> frozenset[int]:
        """Of some factors those that cut no output that has equal parts only."""
        if all(output.value not in self._even for output in outputs):
            return allowed
        return allowed - {
            factor
            for output in outputs
            if output.value in self._even
            for factors in output.dims
            for factor in factors
        }

    def slots(self, op: Op, trips: int) -> Iterator[Node]:
        for position, result in enumerate(op.results):
            if result in self._scalars:
                continue
            outputs, inputs = [result], []
            if op.kind in ("stablehlo.while", BARRIER):
                inputs.append(op.operands[position])
            if op.kind == "stablehlo.while":
                outputs += [region.arguments[position] for region in op.regions]
            inputs += [region.yields[position] for region in op.result_regions]
            yield self.held(
                tuple(outputs),
                tuple(inputs),
                trips=trips,
                # What a loop keeps is resharded before it.
                inner_trips=trips if op.keeps(position) else trips * _turns(op),
                pointwise=op.kind == BARRIER,
            )

    def of_op(self, op: Op, trips: int) -> Node:
        rule = self._whole(op) if op.rule is None else op.rule
        if op.signature not in self._pointwise:
            is_pointwise = op.rule is not None and _is_pointwise(rule)
            self._pointwise[op.signature] = is_pointwise
        defined = tuple(map(Tensor, op.results, rule.results))
        return Node(
            op=op.index,
            sizes=rule.sizes,
            inputs=self._resolved(op.operands, rule.operands),
            outputs=defined,
            reduction=rule.reduction,
            blocked=rule.blocked,
            uneven=self._uneven(rule.uneven, defined),
            trips=trips,
            inner_trips=trips,
            pointwise=self._pointwise[op.signature],
            pinned=rule.pinned,
        )

    def _whole(self, op: Op) -> Rule:
        """The rule of an op that none covers: every tensor whole on every device."""
        values = self._program.values
        return Rule(
            sizes=(),
            operands=tuple(((),) * len(values[v].shape) for v in op.operands),
            results=tuple(((),) * len(values[v].shape) for v in op.results),
        )

    def _resolved(
        self, values: Sequence[int], all_dims: Sequence[Dims]
    ) -> tuple[Tensor, ...]:
        """What must be at hand where these are used: broadcasts are seen through."""
        found = []
        for value, dims in zip(values, all_dims, strict=True):
            tensor: Tensor | None = Tensor(value, dims)
            while tensor is not None and tensor.value in self.generated:
                tensor = self._source(tensor)
            if tensor is not None and tensor.value not in self._scalars:
                found.append(tensor)
        return tuple(found)

    def _source(self, tensor: Tensor) -> Tensor | None:
        """What a generated tensor is a broadcast of; None if made from nothing."""
        producer = self._program.values[tensor.value].producer
        assert producer is not None
        op = self._program.ops[producer]
        if op.kind in _SOURCES:
            return None
        key = (op.signature, tensor.dims)
        if key not in self._sources:
            rule = self._whole(op) if op.rule is None else op.rule
            self._sources[key] = source_dims(rule, tensor.dims)
        return Tensor(op.operands[0], self._sources[key])


def _placed(held: Node, rule: Rule) -> Node:
    """The node as far as the program leaves its place open."""
    (dims,) = rule.results
    return replace(
        held,
        sizes=rule.sizes,
        inputs=tuple(replace(tensor, dims=dims) for tensor in held.inputs),
        outputs=tuple(replace(tensor, dims=dims) for tensor in held.outputs),
        blocked=rule.blocked,
        uneven=frozenset(),
        pinned=rule.pinned,
    )


def _is_pointwise(rule: Rule) -> bool:
    if rule.pinned:
        return False
    if any(rule.sizes[factor] > 1 for factor in rule.reduction | rule.blocked):
        return False
    every = (*rule.operands, *rule.results)
    return all(len(factors) <= 1 for dims in every for factors in dims)
