"""Groups: nodes that may as well agree on their sharding.

The search has one variable for each group. A pointwise node joins a neighbour's group
where agreeing costs nothing: let ``d(S, T)`` be the time to reshard from S to T, which
obeys the triangle inequality and grows with the bytes moved. Then

* *input*: a node with one large input A and an output no larger than it may take A's
  sharding: ``d(A, S) + d(S, O) >= d(A, O)``;
* *state*: a node whose result replaces the state argument A that it reads may take
  A's: it has A at both ends, so each other neighbour pairs with one of them;
* *output*: a node whose result goes to one group C, and whose inputs from elsewhere
  are together no larger than its result, may take C's sharding;
* *neighbours*: a node may join a group that already reads all its other inputs (this
  one is a heuristic; it keeps long backward chains of gated activations together).

"Large" means over an eighth of the output: moving the rest is not worth a variable.
What agreeing may cost in compute (an op before a slice instead of after it) is left
out, so nothing joins a group along a factor that the group may not shard.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from tepdist.analysis.nodes import Dims, Node, Tensor
from tepdist.program.graph import Program

Sizes = tuple[int, ...]  # extent of each factor
SMALL = 1 / 8


@dataclass(frozen=True, slots=True)
class Member:
    """A node inside a group.

    Attributes:
        node: Index of the node.
        factors: For each factor of the node the group's; None for factors of size 1.
        reduced: Whether the node sees the group's tensors after its reduction.
    """

    node: int
    factors: tuple[int | None, ...]
    reduced: bool


@dataclass(frozen=True, slots=True)
class GroupTensor:
    """A tensor with each dim made of the group's factors.

    Attributes:
        value: Value index.
        dims: Group factors of each dim, major first; those of size 1 left out.
        reduced: Whether it lies as the group's tensors lie after its reduction.
        member: Position in the group's members.
    """

    value: int
    dims: Dims
    reduced: bool
    member: int


@dataclass(frozen=True, slots=True)
class Group:
    """One variable of the search.

    Attributes:
        sizes: Extent of each factor; all over 1.
        reduction: Factors reduced away by its first member.
        blocked: Factors that may not be sharded.
        uneven: Factors that may be cut into unequal parts.
        members: Its nodes; the first is the one it grew from.
        inputs: Tensors it reads from other groups.
        outputs: Tensors it defines.
        pinned: Mesh axes that must cut a certain factor; None for none.
    """

    sizes: tuple[int, ...]
    reduction: frozenset[int]
    blocked: frozenset[int]
    uneven: frozenset[int]
    members: tuple[Member, ...]
    inputs: tuple[GroupTensor, ...]
    outputs: tuple[GroupTensor, ...]
    pinned: tuple[tuple[str, int | None], ...] = ()


def build_groups(
    program: Program, nodes: tuple[Node, ...], replaced: Mapping[int, int]
) -> tuple[Group, ...]:
    """Groups of all nodes, in order of their first members.

    Args:
        program: Whose nodes they are.
        nodes: As `build_nodes` gives them.
        replaced: For each value that is the next value of a state argument, the
            argument's value.
    """
    grower = _Grower(program, nodes, replaced)
    for index in range(len(nodes)):
        grower.place(index)
    for root in reversed(list(grower.groups)):
        grower.try_output(root)
    return grower.finish()


class _Growing:
    """A group while it grows."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.sizes: Sizes = ()
        self.reduction: set[int] = set()
        self.blocked: set[int] = set()
        self.uneven: set[int] = set()
        self.members: list[Member] = []
        self.reads: set[int] = set()  # roots of groups it reads from
        self.pointwise = True


@dataclass(frozen=True, slots=True)
class _Use:
    """A value of one group read by a node of another."""

    value: int
    node: int
    root: int
    tensor: Tensor


class _Grower:
    def __init__(
        self,
        program: Program,
        nodes: tuple[Node, ...],
        replaced: Mapping[int, int],
    ) -> None:
        self._sizes = [value.bytes_ for value in program.values]
        self._nodes = nodes
        self._replaced = replaced
        self.groups: dict[int, _Growing] = {}
        self._defined: dict[int, tuple[int, GroupTensor]] = {}  # value: root, view
        self._uses: dict[int, list[tuple[int, Tensor]]] = {}  # value: node, tensor
        self._root_of: dict[int, int] = {}  # node: root of its group
        self._member_of: dict[int, Member] = {}
        for index, node in enumerate(nodes):
            for tensor in node.inputs:
                self._uses.setdefault(tensor.value, []).append((index, tensor))

    # -- placing one node, in program order --------------------------------------

    def place(self, index: int) -> None:
        """Puts a node into a group: a neighbour's, or its own."""
        node = self._nodes[index]
        if node.pointwise and len(node.outputs) == 1:
            for root, view, tensor in self._candidates(node):
                if self._join(index, root, view, tensor=tensor):
                    return
        self._found(index)

    def _candidates(self, node: Node) -> list[tuple[int, GroupTensor, Tensor]]:
        """Groups that this node may join, and the tensor it joins them by."""
        sizes, defined = self._sizes, self._defined
        size = sizes[node.outputs[0].value]
        large = [
            (*defined[tensor.value], tensor)
            for tensor in node.inputs
            if tensor.value in defined and sizes[tensor.value] > SMALL * size
        ]
        roots = {root for root, _, _ in large}
        state = self._replaced.get(node.outputs[0].value)
        if state is not None and state in self._defined:
            home = self._defined[state][0]
            tied = [candidate for candidate in large if candidate[0] == home]
            if tied:
                return tied
        if len(roots) == 1:
            return [c for c in large if sizes[c[2].value] >= size]
        return [
            (root, view, tensor)
            for root, view, tensor in large
            if self.groups[root].pointwise
            and roots - {root} <= self.groups[root].reads
            and sizes[tensor.value] >= size
        ]

    def _join(
        self, index: int, root: int, view: GroupTensor, *, tensor: Tensor
    ) -> bool:
        """Adds a node to a group along a tensor both know, if they line up."""
        node, group = self._nodes[index], self.groups[root]
        factors = _aligned(node.sizes, tensor.dims, group.sizes, group_dims=view.dims)
        if factors is None or not group.blocked.isdisjoint(factors):
            return False
        self._add(index, group, factors, reduced=view.reduced)
        return True

    def _found(self, index: int) -> None:
        node = self._nodes[index]
        group = _Growing(index)
        group.pointwise = node.pointwise
        factors: list[int | None] = []
        for own, size in enumerate(node.sizes):
            if size == 1:
                factors.append(None)
                continue
            factor = len(group.sizes)
            factors.append(factor)
            group.sizes += (size,)
            if own in node.reduction:
                group.reduction.add(factor)
            if own in node.blocked:
                group.blocked.add(factor)
            if own in node.uneven:
                group.uneven.add(factor)
        self.groups[index] = group
        self._add(index, group, tuple(factors), reduced=False)

    def _add(
        self,
        index: int,
        group: _Growing,
        factors: tuple[int | None, ...],
        *,
        reduced: bool,
    ) -> None:
        node = self._nodes[index]
        member = Member(index, factors, reduced)
        self._root_of[index] = group.root
        self._member_of[index] = member
        group.members.append(member)
        group.uneven -= {
            factor
            for own, factor in enumerate(factors)
            if factor is not None and own not in node.uneven
        }
        # The outputs of the node that reduces lie as what is left after it; a node
        # joined to one side of it stays on that side.
        is_root = index == group.root
        reduced_outputs = bool(group.reduction) if is_root else reduced
        for tensor in node.outputs:
            view = _viewed(
                tensor, member, len(group.members) - 1, reduced=reduced_outputs
            )
            self._defined[tensor.value] = (group.root, view)
        for tensor in node.inputs:
            known = self._defined.get(tensor.value)
            if known is not None and known[0] != group.root:
                group.reads.add(known[0])

    # -- joining whole groups to their only consumer, in reverse order ------------

    def try_output(self, root: int) -> None:
        """Joins a group of pointwise nodes to the one group that uses it."""
        group = self.groups[root]
        if not group.pointwise:
            return
        use = self._only_use(group)
        if use is None:
            return
        outside = {
            tensor.value: self._sizes[tensor.value]
            for member in group.members
            for tensor in self._nodes[member.node].inputs
            if tensor.value in self._defined
            and self._defined[tensor.value][0] not in (root, use.root)
        }
        if sum(outside.values()) <= self._sizes[use.value]:
            self._absorb(group, use)

    def _only_use(self, group: _Growing) -> "_Use | None":
        """The first use outside a group, if all are of one value by one group."""
        first: _Use | None = None
        for member in group.members:
            for output in self._nodes[member.node].outputs:
                for node, tensor in self._uses.get(output.value, ()):
                    root = self._root_of[node]
                    if root == group.root:
                        continue
                    if first is None:
                        first = _Use(tensor.value, node, root, tensor)
                    elif (first.root, first.value) != (root, tensor.value):
                        return None
        return first

    def _absorb(self, group: _Growing, use: "_Use") -> None:
        """Moves a group's nodes into the group that uses them."""
        consumer, using = self.groups[use.root], self._member_of[use.node]
        wanted = _viewed(use.tensor, using, 0, reduced=using.reduced).dims
        view = self._defined[use.value][1]
        mapping = _mapping(group.sizes, view.dims, consumer.sizes, dims=wanted)
        if mapping is None or len(mapping) != len(group.sizes):
            return
        if consumer.blocked.intersection(mapping.values()):
            return
        del self.groups[group.root]
        consumer.reads |= group.reads - {consumer.root}
        for member in group.members:
            factors = tuple(
                None if factor is None else mapping[factor] for factor in member.factors
            )
            self._add(member.node, consumer, factors, reduced=using.reduced)

    # -- the result -----------------------------------------------------------------

    def finish(self) -> tuple[Group, ...]:
        return tuple(self._frozen(group) for group in self.groups.values())

    def _frozen(self, group: _Growing) -> Group:
        inputs, outputs = [], []
        for position, member in enumerate(group.members):
            node, reduced = self._nodes[member.node], member.reduced
            for tensor in node.inputs:
                value, dims = tensor.value, view_dims(tensor.dims, member.factors)
                known = self._defined.get(value)
                if known is not None and known[0] == group.root:
                    lies = known[1]
                    if (lies.dims, lies.reduced) == (dims, reduced):
                        continue
                inputs.append(GroupTensor(value, dims, reduced, position))
            outputs += [self._defined[tensor.value][1] for tensor in node.outputs]
        return Group(
            sizes=group.sizes,
            reduction=frozenset(group.reduction),
            blocked=frozenset(group.blocked),
            uneven=frozenset(group.uneven),
            members=tuple(group.members),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            pinned=tuple(
                (axis, None if factor is None else group.members[0].factors[factor])
                for axis, factor in self._nodes[group.root].pinned
            ),
        )


def _viewed(
    tensor: Tensor, member: Member, position: int, *, reduced: bool
) -> GroupTensor:
    dims = view_dims(tensor.dims, member.factors)
    return GroupTensor(tensor.value, dims, reduced, position)


# Layers are alike: a 96-layer GPT comes here 130,000 times with 1,000 arguments.
@lru_cache(maxsize=2**16)
def view_dims(dims: Dims, factors: tuple[int | None, ...]) -> Dims:
    """Dims of a node's factors as dims of its group's; those of size 1 left out."""
    return tuple(
        tuple(cut for own in dim if (cut := factors[own]) is not None) for dim in dims
    )


@lru_cache(maxsize=2**16)
def _aligned(
    own_sizes: Sizes, dims: Dims, sizes: Sizes, *, group_dims: Dims
) -> tuple[int | None, ...] | None:
    """For each factor of a node the group's, if a shared tensor lines them up."""
    own_dims = tuple(
        tuple(factor for factor in factors if own_sizes[factor] > 1) for factors in dims
    )
    mapping = _mapping(own_sizes, own_dims, sizes, dims=group_dims)
    if mapping is None:
        return None
    found = tuple(mapping.get(factor) for factor in range(len(own_sizes)))
    is_left = any(s > 1 and f is None for s, f in zip(own_sizes, found, strict=True))
    return None if is_left else found


def _mapping(
    own_sizes: Sizes,
    own_dims: Dims,
    sizes: Sizes,
    *,
    dims: Dims,
) -> dict[int, int] | None:
    """Own factor to the other's, where two views of one tensor agree; else None."""
    mapping: dict[int, int] = {}
    for own_factors, factors in zip(own_dims, dims, strict=True):
        if len(own_factors) != len(factors):
            return None
        for own, factor in zip(own_factors, factors, strict=True):
            if own_sizes[own] != sizes[factor] or mapping.get(own, factor) != factor:
                return None
            mapping[own] = factor
    if len(set(mapping.values())) != len(mapping):
        return None
    return mapping
