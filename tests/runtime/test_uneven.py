"""Steps whose sizes no mesh axis divides, planned, against one device.

Words, heads, batches and experts: 53, 5, 7 and 10 on meshes of 4 and 8 devices.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tepdist import zoo
from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import trace
from tepdist.lowering.compiled import bytes_by_kind
from tepdist.plans.types import Options, Plan
from tepdist.runtime.local import Executable
from tepdist.sharding import Mesh

from ..lowering.every_strategy import plans_by_strategy

Step = tuple[Callable[..., Any], tuple[Any, Any]]
RATE = 0.1


def words() -> Step:
    """A GPT: its embedding is tied to the logits."""
    model = zoo.build("gpt:layers=1,hidden=40,heads=5,seq=16,vocab=53,batch=7")
    return model.train_step, (model.init(jax.random.key(0)), model.make_batch(0))


def experts() -> Step:
    """Each of ten experts takes a few rows, weighed."""
    rng = np.random.default_rng(0)

    def loss(weights, rows):
        within = jnp.tanh(jnp.einsum("erd,edf->erf", rows, weights["in"]))
        made = jnp.einsum("erf,efd->erd", within, weights["out"])
        share = jax.nn.softmax(made.sum(-1), axis=0)
        return jnp.log(jnp.sum(share[..., None] * made**2))

    def step(weights, rows):
        slopes = jax.grad(loss)(weights, rows)
        return jax.tree.map(lambda w, d: w - RATE * d, weights, slopes)

    weights = {
        "in": rng.normal(size=(10, 27, 53)),
        "out": rng.normal(size=(10, 53, 27)),
    }
    return step, _f32((weights, rng.normal(size=(10, 99, 27))))


def images() -> Step:
    """A convolution of fifteen images, its batch normalised."""
    rng = np.random.default_rng(0)

    def loss(kernel, image):
        made = jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        centred = made - made.mean((0, 1, 2))
        return jnp.max(centred / jnp.sqrt(jnp.var(made, (0, 1, 2)) + 1e-3))

    def step(kernel, image):
        return kernel - RATE * jax.grad(loss)(kernel, image)

    return step, _f32((rng.normal(size=(3, 3, 7, 11)), rng.normal(size=(15, 6, 6, 7))))


def _f32(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float32), tree)


STEPS = {"words": words, "experts": experts, "images": images}


def planned(step: Step, mesh: str, level: str) -> Plan:
    fn, arguments = step
    traced = trace(fn, arguments, {})
    grid = Mesh.parse(mesh)
    cluster = parse_cluster(f"cpu:{grid.num_devices}")
    options = Options(mesh=grid, level=level)
    return compile_plan(traced.read(), traced.roles, cluster, options=options)


def uneven_values(plan: Plan) -> list[str]:
    (stage,) = plan.stages
    return [
        value.name
        for value, sharding in zip(plan.program.values, stage.values, strict=True)
        if sharding.uneven_dims(value.shape, stage.mesh)
    ]


def assert_as_on_one_device(plan: Plan, step: Step) -> None:
    fn, arguments = step
    executable = Executable(plan)
    priced: Counter[str] = Counter()
    for each in plan.stages[0].collectives:
        priced[each.kind] += each.bytes_ * each.count
    assert bytes_by_kind(executable.hlo_text()[0]) == priced
    leaves: Sequence[Any] = jax.tree.leaves(arguments)
    got = executable([executable.put(i, x) for i, x in enumerate(leaves)])
    wanted = jax.tree.leaves(jax.jit(fn)(*arguments))
    for one, other in zip(wanted, got, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("mesh", ["4", "2x4"])
@pytest.mark.parametrize("name", STEPS)
def test_the_best_plan_computes_what_one_device_does(name: str, mesh: str) -> None:
    step = STEPS[name]()
    plan = planned(step, mesh, "O2")
    assert uneven_values(plan)
    assert_as_on_one_device(plan, step)


@pytest.mark.parametrize("mesh", ["4", pytest.param("2x4", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "every"), [("words", 60), ("experts", 9), ("images", 9)]
)
def test_whatever_is_cut_unevenly_the_numbers_stay(
    name: str, every: int, mesh: str
) -> None:
    step = STEPS[name]()
    forced = (
        plan
        for _, plan in plans_by_strategy(planned(step, mesh, "O1"))
        if uneven_values(plan)
    )
    plans = list(itertools.islice(forced, 0, None, every))
    assert plans
    for plan in plans:
        assert_as_on_one_device(plan, step)


def test_arguments_and_results_lie_in_equal_parts() -> None:
    plan = planned(words(), "4", "O2")
    (stage,) = plan.stages
    values = plan.program.values
    for index in plan.program.arguments:
        assert not stage.values[index].uneven_dims(values[index].shape, stage.mesh)
    for index, sharding in zip(plan.program.results, stage.results, strict=True):
        assert not sharding.uneven_dims(values[index].shape, stage.mesh)
