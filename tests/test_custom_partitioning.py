"""Functions that their authors partition: planned by their rule, called on shards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning

import tepdist
from tepdist.errors import ProgramError
from tepdist.lowering.compiled import bytes_by_kind
from tepdist.runtime.local import Executable

CUT = {"x": ("x", "y"), "w": ("y", None)}


class Partitioned:
    """A function under custom_partitioning that notes how its operands lay."""

    def __init__(self, function, rule, **factors) -> None:
        self.specs: list[tuple[jax.sharding.PartitionSpec, ...]] = []
        self._function = function
        self.call = custom_partitioning(lambda *operands: function(*operands, None))
        self.call.def_partition(
            partition=self._partition, sharding_rule=rule, **factors
        )

    def _partition(self, mesh, operands, result):
        shardings = tuple(operand.sharding for operand in operands)
        self.specs.append(tuple(sharding.spec for sharding in shardings))
        last = (*shardings[0].spec, None, None)[1]

        def local(*shards):
            return self._function(*shards, last)

        return mesh, local, result.sharding, shardings


def product(x, w, axis):
    return lax.psum(x @ w, axis) if axis else x @ w


def running_sum(x, axis):
    assert axis is None
    return jnp.cumsum(jnp.sin(x), axis=1)


@pytest.fixture
def matmul():
    return Partitioned(product, "i k, k j -> i j", reduction_factors=("k",))


def inputs():
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(16, 32)), rng.normal(size=(8, 16))
    return {"w": w.astype(np.float32)}, x.astype(np.float32)


def step_of(function):
    def step(state, x):
        h = jnp.tanh(function(x, state["w"]))
        return {"w": state["w"] - 0.1 * jnp.mean(h)}, jnp.mean(h)

    return step


def assert_runs_alike(step, fn):
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(
            ours, theirs, rtol=1e-4, atol=1e-6
        ),
        step(*inputs()),
        jax.jit(fn)(*inputs()),
    )


def test_its_author_sees_the_shards_of_the_plan_and_sums_them_up(matmul):
    fn = step_of(matmul.call)
    step = tepdist.parallelize(
        fn, cluster="cpu:8", donate=False, mesh="2x4", constraints=CUT
    )
    assert_runs_alike(step, fn)
    assert [[tuple(spec) for spec in call] for call in matmul.specs] == [
        [("x", "y"), ("y", None)]
    ]
    (stage,) = step.plan.stages
    priced: dict[str, int] = {}
    for each in stage.collectives:
        priced[each.kind] = priced.get(each.kind, 0) + each.bytes_ * each.count
    assert priced == bytes_by_kind(step.hlo_text()[0])


def test_its_derivative_is_partitioned_too(matmul):
    call = jax.custom_vjp(matmul.call)
    call.defvjp(
        lambda x, w: (matmul.call(x, w), (x, w)),
        lambda kept, g: (matmul.call(g, kept[1].T), matmul.call(kept[0].T, g)),
    )

    def fn(state, x):
        loss, gradient = jax.value_and_grad(lambda w: jnp.mean(call(x, w) ** 2))(
            state["w"]
        )
        return {"w": state["w"] - 0.1 * gradient}, loss

    step = tepdist.parallelize(
        fn, cluster="cpu:8", donate=False, mesh="8", constraints={"x": ("x",)}
    )
    assert_runs_alike(step, fn)
    assert len(matmul.specs) == 2  # forward, and by the weights


def test_what_its_rule_wants_whole_is_whole():
    scan = Partitioned(running_sum, "i j -> i j", need_replication_factors=("j",))
    fn = step_of(lambda x, w: scan.call(x @ w))
    step = tepdist.parallelize(
        fn, cluster="cpu:8", donate=False, mesh="8", constraints={"w": (None, "x")}
    )
    assert_runs_alike(step, fn)
    assert scan.specs


def test_it_runs_under_the_callers_own_jit(matmul):
    fn = step_of(matmul.call)
    plan = tepdist.plan(fn, *inputs(), cluster="cpu:8", mesh="2x4", constraints=CUT)
    mesh = jax.make_mesh(
        (2, 4), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    jitted = jax.jit(plan.constrain(fn), in_shardings=plan.in_shardings(mesh))
    assert_runs_alike(jitted, fn)
    assert matmul.specs


def test_programs_do_not_depend_on_where_it_was_traced(matmul):
    fn = step_of(matmul.call)
    first, second = (
        tepdist.plan(fn, *inputs(), cluster="cpu:8", level="O1") for _ in range(2)
    )
    assert first.fingerprint == second.fingerprint


def test_a_loaded_plan_knows_no_authors(matmul, tmp_path):
    fn = step_of(matmul.call)
    plan = tepdist.plan(fn, *inputs(), cluster="cpu:8", level="O1")
    plan.save(tmp_path / "plan.json")
    loaded = tepdist.Plan.load(tmp_path / "plan.json")
    with pytest.raises(
        ProgramError, match="only the process that traced them"
    ) as error:
        Executable(loaded)
    assert error.value.hint
