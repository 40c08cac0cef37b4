"""Programs small enough to try every plan, and the parts of a search over them."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tepdist import zoo
from tepdist.cluster.presets import parse_cluster
from tepdist.cost.pricing import Pricing
from tepdist.frontends.jax import trace
from tepdist.program.graph import Program
from tepdist.program.roles import Roles
from tepdist.search.memory import MemoryModel
from tepdist.search.network import Network
from tepdist.search.problem import Builder, Problem
from tepdist.search.shared import Choice, Shared
from tepdist.search.structure import Structure, build_structure
from tepdist.sharding import Mesh, Sharding

CPU = parse_cluster("cpu:4").device

EXTENTS = (2, 4, 6, 8, 15, 32, 253, 256, 1024)


@pytest.fixture(scope="session")
def trace_step():
    """Traces the training step of a built-in program."""

    def traced(spec):
        built = zoo.build(spec)
        return trace(built.train_step, (built.state, built.batch), {})

    return traced


@dataclass(frozen=True)
class Space:
    """Everything that a search on one mesh knows.

    Attributes:
        program: What is planned.
        structure: Of the program.
        problem: On the mesh.
        memory: Of the problem.
    """

    program: Program
    structure: Structure
    problem: Problem
    memory: MemoryModel

    @property
    def network(self) -> Network:
        """Costs, no limits."""
        return self.problem.network

    @property
    def num_assignments(self) -> int:
        total = 1
        for costs in self.network.unary:
            total *= len(costs)
        return total

    def costs(self) -> np.ndarray:
        """Cost of every assignment, [values of 0, values of 1, ...]."""
        count = self.network.num_variables
        total = np.zeros([len(costs) for costs in self.network.unary])
        for variable, costs in enumerate(self.network.unary):
            shape = [1] * count
            shape[variable] = len(costs)
            total += costs.reshape(shape)
        for (i, j), table in self.network.binary.items():
            shape = [1] * count
            shape[i], shape[j] = table.shape
            total += table.reshape(shape)
        for shared in self.network.shared:
            total += self._paid(shared)
        return total

    def _paid(self, shared: Shared) -> np.ndarray:
        """What every assignment pays of a shared cost, broadcast over the others."""

        def chosen(choice: Choice) -> np.ndarray:
            shape = [1] * self.network.num_variables
            shape[choice.variable] = len(choice.options)
            return choice.options.reshape(shape)

        row = chosen(shared.payer)
        paid = np.zeros(1)
        for column in range(shared.table.shape[1]):
            takes = np.zeros(1, bool)
            for reader in shared.readers:
                takes = takes | (chosen(reader) == column)
            paid = paid + np.where(takes, shared.table[row, column], 0.0)
        return paid

    def peak(self, assignment: tuple[int, ...]) -> float:
        return float(self.memory.profile(assignment).max())


def build_space(
    program: Program,
    roles: Roles,
    mesh: Mesh,
    *,
    cluster: str | None = None,
    matched: Mapping[int, str] | None = None,
    wanted: Mapping[int, Sharding] | None = None,
) -> Space:
    structure = build_structure(program, roles, matched or {}, device=CPU)
    pricing = Pricing(parse_cluster(cluster or f"cpu:{mesh.num_devices}"), mesh)
    problem = Builder(structure, pricing, wanted or {}).build()
    return Space(program, structure, problem, MemoryModel(structure, problem))


@pytest.fixture(scope="session")
def space_of() -> Callable[..., Space]:
    return build_space


@pytest.fixture(scope="session")
def tiny_program() -> Callable[[int], tuple[Program, Roles]]:
    return generate


def generate(seed: int) -> tuple[Program, Roles]:
    """A program of two to six ops and one or two updates, other for each seed."""
    dice = random.Random(seed)
    extents = dice.sample(EXTENTS, 3)
    num_states = dice.choice((1, 1, 2))
    shapes = [(dice.choice(extents), dice.choice(extents)) for _ in range(num_states)]
    batch = (dice.choice(extents), dice.choice(shapes)[0])
    plan = [dice.randrange(1 << 30) for _ in range(dice.randint(1, 4))]

    def step(state, x):
        values = [*state, x]
        for number in plan:
            values.append(_op(random.Random(number), values))
        return [
            leaf - 0.1 * _shaped_as(leaf, values, random.Random(seed + index))
            for index, leaf in enumerate(state)
        ], jnp.sum(values[-1])

    state = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    args = (state, jax.ShapeDtypeStruct(batch, jnp.float32))
    traced = trace(step, args, {}, name=f"tiny{seed}")
    return traced.read(), traced.roles


def _op(dice: random.Random, values: list[jax.Array]) -> jax.Array:
    """A new value from those that exist, with a bias to the newest."""
    left = values[-1] if dice.random() < 0.7 else dice.choice(values)
    partners = [v for v in values if v.shape[:1] == left.shape[-1:] and v.ndim == 2]
    alike = [v for v in values if v.shape == left.shape]
    match dice.randrange(7):
        case 0 | 1 | 2 if left.ndim == 2 and partners:
            return left @ dice.choice(partners)
        case 3:
            return left.T
        case 4 if left.ndim == 2:
            return jnp.sum(left, axis=dice.randrange(2))
        case 5 if left.ndim == 2:
            parts = 1 if dice.random() < 0.5 or left.size % 2 else 2
            return left.reshape(-1) if parts == 1 else left.reshape(parts, -1)
        case _:
            return jnp.tanh(left) + dice.choice(alike)


def _shaped_as(
    leaf: jax.Array, values: list[jax.Array], dice: random.Random
) -> jax.Array:
    """Something of a leaf's shape to update it with, made by a dot if one fits."""
    dots = [
        (a, b)
        for a in values
        for b in values
        if a.ndim == b.ndim == 2
        and a.shape[0] == b.shape[0]
        and (a.shape[1], b.shape[1]) == leaf.shape
    ]
    if dots:
        a, b = dice.choice(dots)
        return a.T @ b
    alike = [value for value in values if value.shape == leaf.shape]
    return jnp.tanh(dice.choice(alike))
