"""What is priced as combined is what the compiler combines."""

import jax
import jax.numpy as jnp
import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.cost.combining import combine
from tepdist.frontends.jax import trace
from tepdist.lowering.compiled import compiled_collectives
from tepdist.plans.types import Options
from tepdist.runtime.local import Executable
from tepdist.sharding import Mesh

WIDTH, BATCH, LAYERS = 32, 256, 3


def step(params, x):
    def loss(params):
        y = x
        for layer in params:
            y = jnp.tanh(y @ layer)
        return (y * y).mean()

    gradients = jax.grad(loss)(params)
    return [p - 0.1 * g for p, g in zip(params, gradients, strict=True)]


def norm_step(params, x):
    """The gradients' norm waits for all of them, and is itself summed."""
    new = step(params, x)
    change = sum(((a - b) ** 2).sum() for a, b in zip(new, params, strict=True))
    return [p / (1 + change) for p in new], x.sum()


@pytest.fixture(scope="module", params=[step, norm_step])
def plan(request):
    params = [jnp.eye(WIDTH)] * LAYERS
    traced = trace(request.param, (params, jnp.ones((BATCH, WIDTH))), {})
    options = Options(mesh=Mesh.parse("4"), constraints={"x": (("x",), ())})
    return compile_plan(
        traced.read(), traced.roles, parse_cluster("cpu:4"), options=options
    )


def calls(collectives):
    """Times of a price that is one for each call, whatever it moves."""
    return round(sum(each.seconds for each in collectives))


def priced(plan, most_bytes):
    (stage,) = plan.stages
    return combine(
        plan.program,
        stage.collectives,
        lambda kind, payload, axes: 1.0,
        most_bytes=most_bytes,
    )


def test_as_many_starts_are_paid_as_collectives_are_compiled(plan):
    (text,) = Executable(plan).hlo_text()
    alone = [each.seconds for each in plan.stages[0].collectives]
    assert len(alone) > len(compiled_collectives(text))
    units = priced(plan, 2**40)
    combined = [
        each
        for each, before in zip(units, alone, strict=True)
        if each.seconds != before
    ]
    others = len(units) - len(combined)
    assert calls(combined) + others == len(compiled_collectives(text))


def test_nothing_is_combined_beyond_the_limit(plan):
    assert priced(plan, 0) == plan.stages[0].collectives


def test_what_is_combined_moves_as_many_bytes(plan):
    before = [each.bytes_ for each in plan.stages[0].collectives]
    assert [each.bytes_ for each in priced(plan, 2**40)] == before
