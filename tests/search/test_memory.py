"""Memory of an assignment: the fast tables against adding it all up, value by value."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tepdist.cost.resharding import resharding_steps
from tepdist.frontends.jax import trace
from tepdist.search.decode import decode, strategy_of
from tepdist.search.strategies import sharding_of
from tepdist.sharding import Mesh

SEEDS = range(24)
MESHES = ("4", "2x2")


def any_assignment(space, seed):
    dice = random.Random(seed)
    return tuple(dice.randrange(len(costs)) for costs in space.network.unary)


def direct_profile(space, assignment) -> list[float]:
    """Bytes at each position: whole buffers and copies, added up one by one."""
    structure, problem = space.structure, space.problem
    mesh, liveness = problem.pricing.mesh, structure.liveness
    values = decode(structure, problem, assignment).values
    total = [0.0] * liveness.num_times
    grouped = {t.value for group in structure.groups for t in group.outputs}
    for value in space.program.values:
        is_argument = value.index in space.program.arguments
        if value.index in grouped and liveness.is_buffer[value.index]:
            local = local_bytes(value, values[value.index], mesh)
            for time in range(
                liveness.start[value.index], liveness.end[value.index] + 1
            ):
                total[time] += local
        elif is_argument and value.index not in grouped:
            total = [bytes_ + value.bytes_ for bytes_ in total]
    for (value, sharding), positions in copies(space, assignment, values).items():
        local = local_bytes(space.program.values[value], sharding, mesh)
        for time in range(min(positions), max(positions) + 1):
            total[time] += local
    return total


def local_bytes(value, sharding, mesh) -> float:
    """Size of the largest shard."""
    return (
        value.bytes_ * sharding.shard_elements(value.shape, mesh) / value.num_elements
    )


def copies(space, assignment, values):
    """(value, sharding) of each copy to the positions of the ops that read it."""
    structure, problem = space.structure, space.problem
    mesh = problem.pricing.mesh
    found = {}
    for link in structure.links:
        group = structure.groups[link.target]
        read = group.inputs[link.input]
        op = structure.nodes[group.members[read.member].node].op
        strategy = strategy_of(structure, problem, assignment, group=link.target)
        wanted = sharding_of(strategy, read, mesh)
        has = values[read.value]
        # A whole value is cut where it is read, without a copy that others wait for.
        shape = space.program.values[read.value].shape
        if op is None or not resharding_steps(
            has, wanted, shape, itemsize=1, mesh=mesh
        ):
            continue
        position = int(structure.liveness.position[op])
        found.setdefault((read.value, wanted), []).append(position)
    return found


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_profile_is_what_adding_up_gives(tiny_program, space_of, seed, mesh):
    program, roles = tiny_program(seed)
    space = space_of(program, roles, Mesh.parse(mesh))
    for number in range(5):
        assignment = any_assignment(space, number)
        np.testing.assert_allclose(
            space.memory.profile(assignment), direct_profile(space, assignment)
        )


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_terms_of_a_time_add_up_to_its_memory(tiny_program, space_of, seed, mesh):
    program, roles = tiny_program(seed)
    space = space_of(program, roles, Mesh.parse(mesh))
    assignment = any_assignment(space, seed)
    profile = space.memory.profile(assignment)
    for time, bytes_ in enumerate(profile):
        terms = space.memory.terms(assignment, time)
        total = space.memory.fixed + sum(term.bytes_ for term in terms)
        assert total == pytest.approx(bytes_)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("seed", SEEDS)
def test_usages_leave_out_copies_only(tiny_program, space_of, seed, mesh):
    program, roles = tiny_program(seed)
    space = space_of(program, roles, Mesh.parse(mesh))
    assignment = any_assignment(space, seed)
    times = list(range(space.structure.liveness.num_times))
    usages = space.memory.usages(times)
    buffers = sum(usage[value] for usage, value in zip(usages, assignment, strict=True))
    for time in times:
        held = [
            term.bytes_
            for term in space.memory.terms(assignment, time)
            if not term.is_copy
        ]
        assert buffers[time] == pytest.approx(sum(held))


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_assignment_needs_less_than_the_least_profile(
    tiny_program, space_of, seed, mesh
):
    program, roles = tiny_program(seed)
    space = space_of(program, roles, Mesh.parse(mesh))
    least = space.memory.least_profile()
    for number in range(20):
        profile = space.memory.profile(any_assignment(space, number))
        assert (profile >= least - 1e-6).all()


def test_a_value_read_in_another_sharding_is_held_twice(space_of):
    def turned(x):
        y = jnp.sin(x @ x)
        return jnp.sum(y, axis=0), jnp.sum(y, axis=1)

    traced = trace(turned, (jax.ShapeDtypeStruct((64, 64), jnp.float32),), {})
    space = space_of(traced.read(), traced.roles, Mesh.parse("4"))
    found = [
        term
        for number in range(200)
        for assignment in [any_assignment(space, number)]
        for time in range(space.structure.liveness.num_times)
        for term in space.memory.terms(assignment, time)
        if term.is_copy
    ]
    assert found
    assert {term.bytes_ for term in found} <= {64 * 64 * 4, 64 * 64}
    assert all(len(term.variables) >= 1 for term in found)
