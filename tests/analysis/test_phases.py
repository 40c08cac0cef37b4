"""Phases: forward, backward and update of train steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tepdist import zoo
from tepdist.analysis.phases import Phase
from tepdist.cluster.presets import parse_cluster
from tepdist.frontends.jax import trace
from tepdist.program.sums import KIND
from tepdist.search.structure import build_structure

CPU = parse_cluster("cpu:4").device


def structure_of(spec):
    built = zoo.build(spec)
    traced = trace(built.train_step, (built.state, built.batch), {})
    return build_structure(traced.read(), traced.roles, {}, device=CPU)


def count(structure, kind, phase):
    """How many ops of a kind (scalars aside) are in a phase."""
    return sum(
        1
        for op in structure.program.ops
        if op.kind in {kind, f"stablehlo.{kind}"}
        and structure.phases[op.index] is phase
        and any(structure.program.values[value].shape for value in op.results)
    )


@pytest.mark.parametrize("batch", [32, 2, 1])
def test_an_mlp_has_a_product_forward_and_two_backward_for_each_layer(batch):
    structure = structure_of(f"mlp:layers=4,width=16,batch={batch}")
    assert count(structure, "dot_general", Phase.FORWARD) == 4
    # No gradient of the input.
    assert count(structure, "dot_general", Phase.BACKWARD) == 2 * 4 - 1
    assert count(structure, "dot_general", Phase.UPDATE) == 0
    # Adam takes a root for each parameter.
    assert count(structure, "sqrt", Phase.UPDATE) == 8
    assert count(structure, "sqrt", Phase.BACKWARD) == 0


@pytest.mark.parametrize(
    ("spec", "sums"),
    # The head's gradient and the embedding's are one sum where they are tied.
    [("gpt:tiny", 1), ("gpt:tiny:batch=1", 1), ("gpt:tiny:tied=false", 0)],
)
def test_a_gpt_has_its_products_where_they_belong(spec, sums):
    structure = structure_of(spec)
    # Two layers of qkv, scores, mixing, out, two of the feed-forward; and the head.
    assert count(structure, "dot_general", Phase.FORWARD) == 2 * 6 + 1
    assert count(structure, "dot_general", Phase.BACKWARD) == 2 * (2 * 6 + 1) - sums
    assert count(structure, KIND, Phase.BACKWARD) == sums
    assert count(structure, "dot_general", Phase.UPDATE) == 0


def test_recomputation_is_backward():
    plain, remat = structure_of("gpt:tiny"), structure_of("gpt:tiny:remat=full")
    forward = [count(s, "dot_general", Phase.FORWARD) for s in (plain, remat)]
    backward = [count(s, "dot_general", Phase.BACKWARD) for s in (plain, remat)]
    assert forward[0] == forward[1]
    assert backward[1] > backward[0]
    assert count(remat, "dot_general", Phase.UPDATE) == 0


def test_layers_in_a_loop_keep_their_phases():
    structure = structure_of("gpt:tiny:scan=true")
    assert count(structure, "dot_general", Phase.FORWARD) == 6 + 1
    assert count(structure, "dot_general", Phase.BACKWARD) == 2 * (6 + 1) - 1
    assert count(structure, KIND, Phase.BACKWARD) == 1
    assert count(structure, "while", Phase.FORWARD) == 1
    assert count(structure, "while", Phase.BACKWARD) == 1


@pytest.mark.parametrize("spec", ["mlp:layers=2", "gpt:tiny", "gpt:tiny:scan=true"])
def test_nothing_flows_back_from_a_later_phase(spec):
    structure = structure_of(spec)
    program, phases = structure.program, structure.phases
    order = [Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE]
    for op in program.ops:
        for value in op.operands:
            producer = program.values[value].producer
            if producer is not None:
                assert order.index(phases[producer]) <= order.index(phases[op.index])


@pytest.mark.parametrize("spec", ["mlp:layers=2", "gpt:tiny"])
def test_every_next_value_comes_from_the_update(spec):
    structure = structure_of(spec)
    values = structure.program.values
    made = [
        values[result].producer
        for result in structure.next_values.values()
        if values[result].shape
    ]
    assert {structure.phases[op] for op in made} == {Phase.UPDATE}


def test_a_program_without_state_is_all_forward():
    traced = trace(
        lambda w, x: jnp.sum(jnp.tanh(x @ w)),
        tuple(jax.ShapeDtypeStruct((8, 8), jnp.float32) for _ in range(2)),
        {},
    )
    structure = build_structure(traced.read(), traced.roles, {}, device=CPU)
    assert set(structure.phases) == {Phase.FORWARD}


def test_clipping_by_the_global_norm_is_an_update():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    params = {"w": jax.ShapeDtypeStruct((16, 16), np.float32)}
    state = {"params": params, "opt": jax.eval_shape(optimizer.init, params)}

    def step(state, x):
        def loss(params):
            return jnp.mean((x @ params["w"]) ** 2)

        value, gradients = jax.value_and_grad(loss)(state["params"])
        updates, opt = optimizer.update(gradients, state["opt"], state["params"])
        return {
            "params": optax.apply_updates(state["params"], updates),
            "opt": opt,
        }, value

    traced = trace(step, (state, jax.ShapeDtypeStruct((32, 16), np.float32)), {})
    structure = build_structure(traced.read(), traced.roles, {}, device=CPU)
    assert count(structure, "dot_general", Phase.FORWARD) == 1
    assert count(structure, "dot_general", Phase.BACKWARD) == 1
    assert count(structure, "multiply", Phase.UPDATE) >= 1
