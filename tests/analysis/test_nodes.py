"""Nodes: what can be sharded, and what each use makes for itself."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tepdist.analysis.nodes import build_nodes, is_generated, run_counts

MATRIX = (16, 32)


def test_a_product_shares_its_factors_with_what_it_reads(facts_of):
    facts = facts_of(lambda w, x: (w * 0.9, x @ w), (32, 64), MATRIX)
    node = facts.node_of("dot_general")
    left, right = node.inputs
    (out,) = node.outputs
    assert (facts.name(left.value), facts.name(right.value)) == ("x", "w")
    (contracted,) = node.reduction
    assert left.dims == (out.dims[0], (contracted,))
    assert right.dims == ((contracted,), out.dims[1])
    assert not node.pointwise


def test_generated_values_make_no_node(facts_of):
    def step(w):
        return w + jnp.arange(32.0), jnp.sum(w * 2.0)

    facts = facts_of(step, MATRIX)
    for value in facts.program.values:
        if is_generated(facts.program, value.index):
            assert not facts.nodes_defining(value.index)
    (read,) = facts.node_of("add").inputs
    assert facts.name(read.value) == "w"


def test_a_use_of_a_broadcast_is_a_use_of_what_was_broadcast(facts_of):
    facts = facts_of(lambda w, x: (w * 0.9, jnp.sin(x) + w), (32,), MATRIX)
    node = facts.node_of("add")
    (out,) = node.outputs
    (bias,) = (tensor for tensor in node.inputs if facts.name(tensor.value) == "w")
    assert bias.dims == (out.dims[1],)


def test_scalars_make_no_node(facts_of):
    facts = facts_of(lambda w: (w * 0.9, jnp.sin(jnp.sum(w)) * 2), MATRIX)
    assert not facts.nodes_defining(facts.result("sine"))
    # But the reduction that makes one is a node.
    assert facts.nodes_defining(facts.result("reduce"))


def test_a_state_argument_also_reads_what_replaces_it(facts_of):
    facts = facts_of(lambda w, x: (w - x, jnp.sum(x)), MATRIX, MATRIX)
    (state,) = facts.nodes_defining(facts.argument("w"))
    (batch,) = facts.nodes_defining(facts.argument("x"))
    assert [tensor.value for tensor in state.inputs] == [facts.result("subtract")]
    assert batch.inputs == ()


def test_a_loop_has_a_slot_for_each_value_it_carries(facts_of):
    def step(w):
        def body(carry, _):
            return (jnp.tanh(carry[0] @ carry[0]), carry[1] + 1.0), None

        (y, z), _ = lax.scan(body, (w, jnp.zeros((8,))), length=5)
        return w * 0.9, jnp.sum(y) + jnp.sum(z)

    facts = facts_of(step, (32, 32))
    loop = facts.op("while")
    slots = [
        node
        for result in loop.results
        if facts.program.values[result].shape
        for node in facts.nodes_defining(result)
    ]
    assert len(slots) == 2
    for slot in slots:
        # The result, and the argument of condition and body.
        assert len(slot.outputs) == 3
        assert slot.trips == 1
    (inside,) = (
        node
        for node in facts.structure.nodes
        if node.op is not None and facts.program.ops[node.op].kind.endswith("tanh")
    )
    assert inside.trips == 5


def test_nested_loops_multiply(facts_of):
    def step(w):
        def inner(carry, _):
            return jnp.tanh(carry), None

        def outer(carry, _):
            return lax.scan(inner, carry, length=3)[0], None

        return w * 0.9, jnp.sum(lax.scan(outer, w, length=4)[0])

    facts = facts_of(step, MATRIX)
    counts = run_counts(facts.program)
    assert counts[facts.op("tanh").index] == 12


def test_a_barrier_is_a_pointwise_slot_for_each_operand(facts_of):
    def step(w, x):
        a, b = lax.optimization_barrier((jnp.sin(w), jnp.cos(x)))
        return a, jnp.sum(b)

    facts = facts_of(step, (32, 32), (8,))
    barrier = facts.op("optimization_barrier")
    for operand, result in zip(barrier.operands, barrier.results, strict=True):
        (slot,) = facts.nodes_defining(result)
        assert slot.op is None
        assert slot.pointwise
        assert [tensor.value for tensor in slot.inputs] == [operand]


def test_an_op_without_a_rule_is_whole(facts_of):
    facts = facts_of(lambda w: (w * 0.9, jnp.tanh(w)), MATRIX)
    unknown = facts.op("tanh").index
    ops = tuple(
        replace(op, rule=None) if op.index == unknown else op
        for op in facts.program.ops
    )
    nodes = build_nodes(replace(facts.program, ops=ops), {})
    (node,) = (node for node in nodes if node.op == unknown)
    assert node.sizes == ()
    assert not node.pointwise
    for tensor in (*node.inputs, *node.outputs):
        assert tensor.dims == ((), ())


@pytest.mark.parametrize(
    ("function", "kind", "pointwise"),
    [
        (jnp.tanh, "tanh", True),
        (lambda x: x + x.T, "add", True),
        (lambda x: jnp.sum(x, 0), "reduce", False),
        (lambda x: x.reshape(-1) * 2, "reshape", False),
        (lambda x: jax.nn.relu(x) * 3, "maximum", True),
        (lambda x: jnp.sort(x), "sort", False),
    ],
)
def test_pointwise_means_each_element_by_itself(facts_of, function, kind, pointwise):
    facts = facts_of(lambda x: function(x), (16, 16))
    assert facts.node_of(kind).pointwise == pointwise
