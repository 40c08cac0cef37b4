"""Liveness: which values are buffers, and from when to when."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tepdist import zoo
from tepdist.cluster.presets import parse_cluster
from tepdist.frontends.jax import trace
from tepdist.search.structure import build_structure

CPU = parse_cluster("cpu:4").device

SQUARE = (32, 32)


def is_buffer(facts, value):
    return bool(facts.structure.liveness.is_buffer[value])


def is_stored(facts, value):
    return bool(facts.structure.liveness.is_stored[value])


def test_donated_state_lends_its_buffer_to_its_next_value(facts_of):
    def step(w, x):
        return w - x @ x, jnp.sum(x)

    donated = facts_of(step, SQUARE, SQUARE, donate=True)
    kept = facts_of(step, SQUARE, SQUARE, donate=False)
    assert not is_buffer(donated, donated.result("subtract"))
    assert is_buffer(kept, kept.result("subtract"))
    for facts in (donated, kept):
        assert is_buffer(facts, facts.argument("w"))


def test_arguments_exist_throughout(facts_of):
    facts = facts_of(lambda w, x: (w - x, jnp.sum(x)), SQUARE, SQUARE)
    last = facts.structure.liveness.num_times - 1
    for name in ("w", "x"):
        assert facts.lifetime(facts.argument(name)) == (0, last)


def test_results_live_to_the_end(facts_of):
    facts = facts_of(lambda w, x: (w * 0.9, jnp.tanh(x @ x)), SQUARE, SQUARE)
    _, end = facts.lifetime(facts.result("tanh"))
    assert end == facts.structure.liveness.num_times - 1


def test_a_value_lives_from_the_op_that_makes_it_to_its_last_reader(facts_of):
    def step(w, x):
        first = x @ x
        second = first @ x
        return w * 0.9, second @ first

    facts = facts_of(step, SQUARE, SQUARE)
    start, end = facts.lifetime(facts.result("dot_general", 0))
    assert start == facts.position("dot_general", 0)
    assert end == facts.position("dot_general", 2)


def test_a_pointwise_value_between_pointwise_ops_is_fused(facts_of):
    def step(w, x):
        product = x @ x
        return w * 0.9, jnp.sum(jnp.tanh(product + 1.0) * x)

    facts = facts_of(step, SQUARE, SQUARE)
    assert not is_stored(facts, facts.result("add"))
    assert not is_stored(facts, facts.result("tanh"))
    # What it is made of lives until the fusion has run.
    _, end = facts.lifetime(facts.result("dot_general"))
    assert end == facts.position("reduce")


def test_what_is_dear_and_read_twice_is_stored(facts_of):
    def step(w, x):
        dear = jnp.tanh(x)
        return w * 0.9, jnp.sum(dear * 2.0) + jnp.sum(dear + x, axis=0)[0]

    facts = facts_of(step, SQUARE, SQUARE)
    assert is_stored(facts, facts.result("tanh"))


def test_what_a_product_reads_is_stored(facts_of):
    facts = facts_of(lambda w, x: (w * 0.9, jnp.tanh(x) @ x), SQUARE, SQUARE)
    assert is_buffer(facts, facts.result("tanh"))


def test_generated_values_are_no_buffers(facts_of):
    facts = facts_of(lambda w: w + jnp.arange(32.0), SQUARE)
    assert not is_stored(facts, facts.result("iota"))


def test_a_pointwise_op_writes_over_an_operand_that_dies_there(facts_of):
    def step(w, x):
        return w * 0.9, jnp.tanh(x @ x) @ x

    facts = facts_of(step, SQUARE, SQUARE)
    _, end = facts.lifetime(facts.result("dot_general", 0))
    assert end == facts.position("tanh") - 1


def test_a_barrier_renames_its_operands(facts_of):
    def step(w, x):
        (renamed,) = lax.optimization_barrier((x @ x,))
        return w * 0.9, renamed @ x

    facts = facts_of(step, SQUARE, SQUARE)
    assert not is_stored(facts, facts.result("optimization_barrier"))
    _, end = facts.lifetime(facts.result("dot_general", 0))
    assert end == facts.position("dot_general", 1)


def test_a_loop_keeps_what_it_reads_and_one_buffer_for_what_it_carries(facts_of):
    def step(w, x):
        outside = x @ x

        def body(carry, _):
            return jnp.tanh(carry @ outside), None

        carried, _ = lax.scan(body, x, length=5)
        return w * 0.9, carried

    facts = facts_of(step, SQUARE, SQUARE)
    loop = facts.op("while")
    (body,) = [region for region in loop.regions if len(region.yields) > 1]
    for argument, result, yielded in zip(
        body.arguments, loop.results, body.yields, strict=True
    ):
        if not facts.program.values[result].shape:
            continue
        assert not is_buffer(facts, argument)
        assert is_buffer(facts, result)
        if facts.program.values[yielded].producer != loop.index:
            assert not is_buffer(facts, yielded)
    inside = [op.index for op in facts.program.ops if op.parent == loop.index]
    last = max(int(facts.structure.liveness.position[index]) for index in inside)
    _, end = facts.lifetime(facts.result("dot_general", 0))
    assert end >= last


def test_an_update_runs_as_soon_as_its_gradient_is_there(facts_of):
    def step(state, x):
        def loss(params):
            return jnp.sum((jnp.tanh(x @ params["a"]) @ params["b"]) ** 2)

        value, gradient = jax.value_and_grad(loss)(state)
        return {name: state[name] - gradient[name] for name in state}, value

    facts = facts_of(step, {"a": SQUARE, "b": SQUARE}, SQUARE)
    liveness = facts.structure.liveness
    updates = [
        op
        for op in facts.program.ops
        if str(facts.structure.phases[op.index]) == "update"
    ]
    backward = [
        int(liveness.position[op.index])
        for op in facts.program.ops
        if str(facts.structure.phases[op.index]) == "backward"
    ]
    first = min(int(liveness.position[op.index]) for op in updates)
    assert first < max(backward)


@pytest.mark.parametrize(
    "spec",
    ["mlp:layers=2", "gpt:tiny", "gpt:tiny:remat=full", "gpt:tiny:scan=true"],
)
def test_no_op_reads_what_does_not_exist(spec):
    built = zoo.build(spec)
    traced = trace(built.train_step, (built.state, built.batch), {})
    found = build_structure(traced.read(), traced.roles, {}, device=CPU)
    program, liveness = found.program, found.liveness
    assert sorted(liveness.position) == list(range(len(program.ops)))
    for op in program.ops:
        for value in op.operands:
            if program.values[value].producer is None:
                continue
            here = liveness.position[op.index]
            assert liveness.start[value] <= here
            # Written over in this very op at the earliest.
            if liveness.is_buffer[value]:
                assert liveness.end[value] >= here - 1
