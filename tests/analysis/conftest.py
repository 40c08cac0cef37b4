"""What the analysis says of a small JAX function."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.frontends.jax import trace
from tepdist.search.structure import Structure, build_structure

CPU = parse_cluster("cpu:4").device


class Facts:
    """A structure, asked by names and kinds of op.

    Attributes:
        structure: All that is known.
    """

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.program = structure.program

    def op(self, kind: str, number: int = 0):
        """The number-th op of a kind."""
        found = [op for op in self.program.ops if op.kind == f"stablehlo.{kind}"]
        return found[number]

    def result(self, kind: str, number: int = 0) -> int:
        """Value of the number-th op of a kind."""
        return self.op(kind, number).results[0]

    def argument(self, name: str) -> int:
        """Value of an argument."""
        (found,) = (
            value for value in self.program.arguments if self.name(value) == name
        )
        return found

    def name(self, value: int) -> str:
        return self.program.values[value].name

    def node_of(self, kind: str, number: int = 0):
        """The node of the number-th op of a kind."""
        index = self.op(kind, number).index
        (found,) = (node for node in self.structure.nodes if node.op == index)
        return found

    def nodes_defining(self, value: int):
        return [
            node
            for node in self.structure.nodes
            if any(tensor.value == value for tensor in node.outputs)
        ]

    def group_of(self, value: int) -> int:
        """Position of the group that defines a value."""
        (found,) = (
            index
            for index, group in enumerate(self.structure.groups)
            if any(tensor.value == value for tensor in group.outputs)
        )
        return found

    def share(self, *values: int) -> bool:
        """Whether these values are decided together."""
        return len({self.group_of(value) for value in values}) == 1

    def lifetime(self, value: int) -> tuple[int, int]:
        liveness = self.structure.liveness
        return int(liveness.start[value]), int(liveness.end[value])

    def position(self, kind: str, number: int = 0) -> int:
        return int(self.structure.liveness.position[self.op(kind, number).index])

    def phase_of(self, kind: str, number: int = 0) -> str:
        return str(self.structure.phases[self.op(kind, number).index])


@pytest.fixture(scope="session")
def facts_of() -> Callable[..., Facts]:
    """``facts_of(step, *shapes)``; a shape may be a tree of shapes."""

    def find(step, *shapes, **options) -> Facts:
        def leaf(shape):
            return jax.ShapeDtypeStruct(shape, jnp.float32)

        def is_shape(node):
            return isinstance(node, tuple) and all(isinstance(n, int) for n in node)

        args = [jax.tree.map(leaf, shape, is_leaf=is_shape) for shape in shapes]
        traced = trace(step, args, {}, **options)
        return Facts(build_structure(traced.read(), traced.roles, {}, device=CPU))

    return find
