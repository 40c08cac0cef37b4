"""Groups: where agreeing costs nothing, nodes decide together."""

import math

import jax.numpy as jnp
import pytest

from tepdist import zoo
from tepdist.cluster.presets import parse_cluster
from tepdist.frontends.jax import trace
from tepdist.search.structure import build_structure

CPU = parse_cluster("cpu:4").device

SQUARE = (32, 32)


def test_a_pointwise_node_lies_as_its_only_large_input(facts_of):
    facts = facts_of(lambda w, x: (w * 0.9, jnp.tanh(x @ w)), SQUARE, SQUARE)
    assert facts.share(facts.result("dot_general"), facts.result("tanh"))


def test_a_small_input_does_not_keep_a_node_apart(facts_of):
    def step(b, x):
        return b * 0.9, jnp.sin(x @ x) + jnp.cos(b)

    facts = facts_of(step, (32,), SQUARE)
    assert facts.share(facts.result("dot_general"), facts.result("add"))
    assert not facts.share(facts.result("cosine"), facts.result("add"))


def test_a_node_with_two_large_inputs_from_apart_decides_for_itself(facts_of):
    def step(w, x):
        return w * 0.9, jnp.sum((x @ x) * (x @ w) @ x, axis=0)

    facts = facts_of(step, SQUARE, SQUARE)
    product = facts.result("multiply", 1)
    if facts.program.values[product].shape != SQUARE:
        product = facts.result("multiply", 0)
    assert not facts.share(facts.result("dot_general", 0), product)
    assert not facts.share(facts.result("dot_general", 1), product)


def test_an_update_lies_as_the_state_that_it_replaces(facts_of):
    facts = facts_of(lambda w, x: (w - 0.1 * (x @ x), jnp.sum(x)), SQUARE, SQUARE)
    assert facts.share(facts.argument("w"), facts.result("subtract"))
    assert not facts.share(facts.result("dot_general"), facts.result("subtract"))


def test_moments_and_parameters_may_lie_otherwise(facts_of):
    def step(state, x):
        mean = 0.9 * state["mean"] + 0.1 * (x @ x)
        return {"w": state["w"] - mean, "mean": mean}, jnp.sum(x)

    facts = facts_of(step, {"w": SQUARE, "mean": SQUARE}, SQUARE)
    assert not facts.share(facts.argument("w"), facts.argument("mean"))


def test_a_node_lies_as_the_only_group_that_reads_it(facts_of):
    # What is made of two matrices goes into one product: it may lie as that wants.
    def step(w, x):
        mixed = jnp.sin(x) * jnp.cos(w)
        return w * 0.9, jnp.sum(jnp.tanh(mixed.T @ mixed.T), axis=0)

    facts = facts_of(step, SQUARE, SQUARE)
    for group in facts.structure.groups:
        assert group.members
    names = {facts.name(value) for value in _defined_alone(facts)}
    assert not any(name.startswith(("sine", "cosine")) for name in names)


def _defined_alone(facts):
    """Values of groups of one pointwise member."""
    structure = facts.structure
    for group in structure.groups:
        (member, *others) = group.members
        node = structure.nodes[member.node]
        if not others and node.pointwise and node.op is not None:
            yield from (tensor.value for tensor in group.outputs)


def test_nothing_joins_along_a_factor_that_may_not_be_cut(facts_of):
    facts = facts_of(lambda x: jnp.tanh(jnp.sort(x, axis=1)), SQUARE)
    assert not facts.share(facts.result("sort"), facts.result("tanh"))


@pytest.fixture(scope="module", params=["mlp:layers=2", "gpt:tiny:remat=full"])
def structure(request):
    built = zoo.build(request.param)
    traced = trace(built.train_step, (built.state, built.batch), {})
    return build_structure(traced.read(), traced.roles, {}, device=CPU)


def test_every_node_is_a_member_of_one_group(structure):
    members = [m.node for group in structure.groups for m in group.members]
    assert sorted(members) == list(range(len(structure.nodes)))


def test_every_value_is_defined_by_one_group(structure):
    defined = [t.value for group in structure.groups for t in group.outputs]
    assert len(set(defined)) == len(defined)
    nodes = {t.value for node in structure.nodes for t in node.outputs}
    assert set(defined) == nodes


def test_members_know_the_extents_of_the_groups_factors(structure):
    for group in structure.groups:
        assert all(size > 1 for size in group.sizes)
        for member in group.members:
            node = structure.nodes[member.node]
            for own, factor in enumerate(member.factors):
                if factor is None:
                    assert node.sizes[own] == 1
                else:
                    assert node.sizes[own] == group.sizes[factor]


def test_dims_of_tensors_have_the_extents_of_their_factors(structure):
    values = structure.program.values
    for group in structure.groups:
        for tensor in group.outputs:
            shape = values[tensor.value].shape
            for extent, factors in zip(shape, tensor.dims, strict=True):
                # A slice names its dim by the factor of the whole, which is blocked;
                # a pad by that of the part, which may be 1.
                if not group.blocked.intersection(factors):
                    assert extent % math.prod(group.sizes[f] for f in factors) == 0


def test_links_are_all_reads_between_groups(structure):
    defined = {
        tensor.value: index
        for index, group in enumerate(structure.groups)
        for tensor in group.outputs
    }
    linked = set()
    for link in structure.links:
        source, target = structure.groups[link.source], structure.groups[link.target]
        value = source.outputs[link.output].value
        assert value == target.inputs[link.input].value
        linked.add((value, link.target))
    expected = {
        (tensor.value, index)
        for index, group in enumerate(structure.groups)
        for tensor in group.inputs
        if tensor.value in defined
    }
    assert linked == expected


def test_groups_are_far_fewer_than_ops(structure):
    assert len(structure.groups) < len(structure.program.ops) / 2
