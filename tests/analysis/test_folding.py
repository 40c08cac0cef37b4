"""A folded program reads what the whole reads, and stands for all of it."""

import jax
import jax.numpy as jnp
import optax
import pytest

from tepdist import zoo
from tepdist.analysis.folding import Folded, fold
from tepdist.analysis.gaps import KEPT
from tepdist.analysis.layers import PERIOD
from tepdist.frontends.jax import trace

SPECS = {
    "mlp": "mlp:layers=17,width=32,batch=16",
    "gpt": "gpt:layers=16,hidden=16,heads=2,seq=8,vocab=16,batch=4",
    "moe": "moe:layers=32,hidden=16,inner=32,heads=2,seq=8,vocab=16,batch=4,experts=4",
    "llama": "llama:tiny:layers=13",
}


def folded(function, *arguments, marks=None) -> Folded:
    traced = trace(function, arguments, {})
    return fold(traced.read(), traced.roles, marks or {})


@pytest.fixture(scope="module", params=SPECS.values(), ids=SPECS)
def found(request):
    program = zoo.build(request.param)
    return folded(program.train_step, program.state, program.batch)


def test_inner_layers_are_left_out(found):
    (gap,) = found.gaps
    assert gap.size % PERIOD == 0
    assert gap.num_layers - gap.size <= 2 * KEPT + PERIOD - 1
    inside = found.op_counts.max() - 1
    assert inside == gap.size // PERIOD


def test_what_stands_for_an_op_is_like_it(found):
    for op in found.whole.ops:
        other = found.program.ops[found.ops[op.index]]
        assert other.signature == op.signature
        assert [found.values[value] for value in op.results] == list(other.results)


def test_ops_come_after_what_they_read(found):
    program = found.program
    for index, op in enumerate(program.ops):
        assert op.index == index
        for value in op.operands:
            producer = program.values[value].producer
            assert producer is None or producer < index
        for value in op.results:
            assert program.values[value].index == value
            assert program.values[value].producer == index


def test_reads_of_the_folded_program_stand_for_all_reads(found):
    """Each read of the whole is meant once."""
    places = [
        (op.index, position)
        for op in found.program.ops
        for position in range(len(op.operands))
    ]
    at, ops, values = found.instances(
        [op for op, _ in places],
        [found.program.ops[op].operands[position] for op, position in places],
    )
    meant = [
        (op, places[place][1], value)
        for place, op, value in zip(
            at.tolist(), ops.tolist(), values.tolist(), strict=True
        )
    ]
    read = [
        (op.index, position, value)
        for op in found.whole.ops
        for position, value in enumerate(op.operands)
    ]
    assert sorted(meant) == read


def test_state_stays_with_what_replaces_it(found):
    program, roles = found.program, found.roles
    names = [role.name for role in roles.arguments]
    assert len(names) == len(program.arguments)
    assert len(roles.results) == len(program.results)
    for role in roles.results:
        assert role.replaces is None or role.replaces in names


def test_a_program_folds_less_by_whole_periods(found):
    (gap,) = found.gaps
    less = found.unfolded([1])
    assert less.gaps[0].size == gap.size - PERIOD
    assert len(less.program.ops) > len(found.program.ops)
    assert less.op_counts.sum() == found.op_counts.sum() == len(found.whole.ops)


def chain(weights, x):
    for weight in weights:
        x = jnp.tanh(x @ weight) + x
    return x.sum()


WEIGHTS = [jnp.ones((8, 8))] * 20
X = jnp.ones((4, 8))


def test_layers_named_in_another_order_are_found():
    """Dicts flatten by name: layer 10 stands before layer 2."""
    optimizer = optax.adamw(1e-3)

    def loss(layers, x):
        for index in range(20):
            layer = layers[f"h{index}"]
            x = jnp.tanh(x @ layer["w"]) * layer["s"] + x
        return x.sum()

    def step(layers, state, x):
        updates, state = optimizer.update(jax.grad(loss)(layers, x), state, layers)
        return optax.apply_updates(layers, updates), state

    layers = {f"h{i}": {"w": w, "s": jnp.ones(8)} for i, w in enumerate(WEIGHTS)}
    (gap,) = folded(step, layers, optimizer.init(layers), X).gaps
    assert gap.size >= 20 - 2 * KEPT - PERIOD - 1


def test_a_layer_of_two_equal_blocks_is_one():
    def step(weights, x):
        for weight in weights:
            x = jnp.tanh(jnp.tanh(x @ weight) @ weight)
        return x

    (gap,) = folded(jax.grad(lambda w, x: step(w, x).sum()), WEIGHTS, X).gaps
    assert gap.num_layers <= 20


def test_layers_that_all_meet_in_one_op_stay():
    def step(weights, x):
        gradients = jax.grad(chain)(weights, x)
        scale = jnp.max(jnp.stack([jnp.max(g) for g in gradients]))
        return [w - scale * g for w, g in zip(weights, gradients, strict=True)]

    assert not folded(step, WEIGHTS, X).gaps


def test_layers_that_differ_stay():
    def step(weights, x):
        for index, weight in enumerate(weights):
            x = jnp.tanh(x @ weight) if index % 3 else jnp.exp(x @ weight)
        return x

    # Three layers are one block: six blocks are too few.
    assert not folded(step, WEIGHTS, X).gaps


def test_a_layer_that_reads_far_back_keeps_all():
    def step(weights, x):
        seen = []
        for weight in weights:
            x = jnp.tanh(x @ weight)
            seen.append(x)
        for weight, kept in zip(weights, reversed(seen), strict=True):
            x = jnp.tanh(x @ weight) + kept
        return x + seen[9]

    assert not folded(step, WEIGHTS, X).gaps


def test_a_marked_layer_keeps_all():
    traced = trace(jax.grad(chain), (WEIGHTS, X), {})
    program = traced.read()
    one = {program.arguments[9]: "one"}
    alike = dict.fromkeys(program.arguments[:20], "all")
    assert not fold(program, traced.roles, one).gaps
    assert fold(program, traced.roles, alike).gaps


def test_few_layers_stay():
    assert not folded(jax.grad(chain), WEIGHTS[:9], X).gaps
