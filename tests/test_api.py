"""`parallelize` and `plan`: the same numbers as one device, and state kept in place."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import tepdist
from tepdist import zoo
from tepdist.errors import (
    PlanError,
    StateConsumed,
    StateError,
)
from tepdist.plans.json import to_json

CLUSTER = "cpu:4"
MLP = "mlp:layers=2,width=32,batch=16"
SPLIT_WIDTH = {"mesh": "data=2,model=2", "constraints": {"params/0/w": (None, "model")}}


def host(tree):
    def one(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return np.asarray(jax.random.key_data(leaf))
        return np.asarray(leaf)

    return jax.tree.map(one, tree)


def assert_close(left, right, rtol=1e-4):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5),
        host(left),
        host(right),
    )


@pytest.fixture(scope="module")
def mlp():
    return zoo.build(MLP)


@pytest.fixture
def state(mlp):
    return mlp.init(jax.random.key(0))


def mesh_of(plan):
    (stage,) = plan.stages
    devices = np.array(jax.devices()[: stage.mesh.num_devices])
    return jax.sharding.Mesh(devices.reshape(stage.mesh.shape), stage.mesh.names)


@pytest.mark.parametrize(
    "spec",
    [
        MLP,
        "gpt:hidden=16,heads=4,seq=8,vocab=32,batch=8,scan=true,remat=full",
    ],
)
def test_a_parallel_step_computes_what_one_device_computes(spec):
    program = zoo.build(spec)
    step = tepdist.parallelize(program.train_step, cluster=CLUSTER)
    single = jax.jit(program.train_step)
    state = expected = jax.jit(program.init)(jax.random.key(0))
    for seed in range(3):
        batch = program.make_batch(seed)
        state, loss = step(state, batch)
        expected, expected_loss = single(expected, batch)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-4)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    assert_close(state["params"], expected["params"], rtol=1e-3)
    assert step.plan.cluster.num_devices == 4
    assert len(jax.tree.leaves(state)[1].sharding.device_set) == 4
    assert all(text.startswith("HloModule") for text in step.hlo_text())


def test_the_callers_own_state_stays_whole_and_ours_is_consumed(mlp, state):
    step = tepdist.parallelize(mlp.train_step, cluster=CLUSTER)
    before = host(state)
    first, _ = step(state, mlp.make_batch(0))
    step(first, mlp.make_batch(1))
    assert_close(state, before, rtol=0)
    check = tepdist.parallelize(lambda state, batch: state, cluster=CLUSTER)
    for consumer in (step, check):
        with pytest.raises(StateConsumed) as error:
            consumer(first, mlp.make_batch(2))
        assert "was consumed by an earlier step" in error.value.problem
    step(state, mlp.make_batch(2))


def test_numpy_state_is_not_written_to(mlp, state):
    step = tepdist.parallelize(mlp.train_step, cluster=CLUSTER)
    mine = jax.tree.map(np.array, state)
    first, _ = step(mine, mlp.make_batch(0))
    step(first, mlp.make_batch(1))
    assert_close(mine, state, rtol=0)


def test_without_donation_a_state_may_be_used_again(mlp, state):
    step = tepdist.parallelize(mlp.train_step, cluster=CLUSTER, donate=False)
    first, _ = step(state, mlp.make_batch(0))
    results = [step(first, mlp.make_batch(1)) for _ in range(2)]
    assert_close(*results, rtol=0)


def test_state_that_lies_right_is_not_touched(mlp, state):
    step = tepdist.parallelize(mlp.train_step, cluster=CLUSTER, donate=False)
    state, _ = step(state, mlp.make_batch(0))
    leaves = jax.tree.leaves(state)
    placed = step._calls.latest._place([*leaves, *jax.tree.leaves(mlp.make_batch(0))])
    assert all(ours is given for ours, given in zip(placed, leaves, strict=False))


def test_another_batch_shape_keeps_the_state_where_it_is(mlp, state):
    step = tepdist.parallelize(mlp.train_step, cluster=CLUSTER)
    single = jax.jit(mlp.train_step)
    state, _ = step(state, mlp.make_batch(0))
    first, expected = step.plan, host(state)
    shardings = [leaf.sharding for leaf in jax.tree.leaves(state)]
    for rows in (8, 16, 8):
        batch = {name: array[:rows] for name, array in mlp.make_batch(1).items()}
        state, loss = step(state, batch)
        expected, expected_loss = single(expected, batch)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-4)
    now = [leaf.sharding for leaf in jax.tree.leaves(state)]
    assert all(
        a.is_equivalent_to(b, leaf.ndim)
        for a, b, leaf in zip(shardings, now, jax.tree.leaves(state), strict=True)
    )
    assert step.plan.stages[0].mesh == first.stages[0].mesh
    assert step.plan.fingerprint != first.fingerprint


def test_another_state_is_an_error_that_names_the_leaf(mlp, state):
    step = tepdist.parallelize(mlp.train_step, cluster=CLUSTER, donate=False)
    state, _ = step(state, mlp.make_batch(0))
    w = state["params"][0]["w"]
    for changed, problem in (
        (
            {"w": w[:, :16]},
            "'params/0/w' is float32[32,16], planned for float32[32,32]",
        ),
        ({"w": w.astype(jnp.bfloat16)}, "is bfloat16[32,32], planned for float32"),
        ({"v": w}, "has a leaf 'params/0/v'"),
        ({"b": None}, "has no leaf 'params/0/b'"),
    ):
        layers = ({**state["params"][0], **changed}, state["params"][1])
        with pytest.raises(StateError) as error:
            step({**state, "params": layers}, mlp.make_batch(0))
        assert problem in error.value.problem


def test_keys_counts_numbers_statics_and_keywords_in_a_step():
    def noisy(state, mode, rate, *, x):
        key, sample = jax.random.split(state["key"])
        noise = jax.random.normal(sample, state["w"].shape, state["w"].dtype)
        w = state["w"] + rate * noise + x.mean(0).astype(state["w"].dtype)
        count = state["count"] + (2 if mode == "double" else 1)
        return {"w": w, "key": key, "count": count}, x.sum()

    step = tepdist.parallelize(noisy, cluster=CLUSTER, static_argnums=1)
    single = jax.jit(noisy, static_argnums=1)
    start = {
        "w": jnp.ones((8,), jnp.bfloat16),
        "key": jax.random.key(1, impl="rbg"),
        "count": 0,
    }
    x = np.ones((8, 8), np.float32)
    state, expected = start, start
    for mode in ("single", "double", "single"):
        state, total = step(state, mode, 0.5, x=x)
        expected, expected_total = single(expected, mode, 0.5, x=x)
        assert_close(total, expected_total)
    assert_close(state, expected, rtol=1e-2)
    np.testing.assert_array_equal(
        jax.random.key_data(state["key"]), jax.random.key_data(expected["key"])
    )
    assert int(state["count"]) == 4
    assert str(jax.random.key_impl(state["key"])) == "rbg"


@pytest.mark.parametrize("memory_limit", [2190, 4380])
def test_a_branch_and_a_later_op_share_a_resharded_copy(memory_limit):
    def step(state, x):
        def loss(w):
            h = jnp.tanh(x @ w)
            even = state["i"] % 2 == 0
            z = jax.lax.cond(even, lambda y: y @ w, lambda y: jnp.sin(y), h)
            return jnp.mean(z**2)

        value, gradient = jax.value_and_grad(loss)(state["w"])
        return {"w": state["w"] - 0.1 * gradient, "i": state["i"] + 1}, value

    state = {"w": np.eye(12, dtype=np.float32), "i": np.int32(0)}
    x = np.linspace(-1, 1, 24 * 12, dtype=np.float32).reshape(24, 12)
    limits = {"memory_limit": memory_limit, "time_limit": 3}
    planned = tepdist.parallelize(step, cluster="cpu:8", donate=False, **limits)
    assert_close(planned(state, x), jax.jit(step)(state, x))


def test_an_evaluation_takes_the_trained_state_without_consuming_it(mlp, state):
    step = tepdist.parallelize(mlp.train_step, cluster=CLUSTER)

    def evaluate(state, batch):
        return mlp.train_step(state, batch)[1]

    check = tepdist.parallelize(evaluate, cluster=CLUSTER)
    state, _ = step(state, mlp.make_batch(0))
    losses = [check(state, mlp.make_batch(1)) for _ in range(2)]
    _, loss = step(state, mlp.make_batch(1))
    np.testing.assert_allclose(losses, [loss, loss], rtol=1e-4)


def test_shardings_of_a_plan_serve_the_callers_own_jit(mlp, state):
    plan = tepdist.plan(
        mlp.train_step, mlp.state, mlp.batch, cluster=CLUSTER, **SPLIT_WIDTH
    )
    mesh = mesh_of(plan)
    batch = mlp.make_batch(0)
    expected = jax.jit(mlp.train_step)(state, batch)
    for fn in (mlp.train_step, plan.constrain(mlp.train_step)):
        jitted = jax.jit(
            fn,
            in_shardings=plan.in_shardings(mesh),
            out_shardings=plan.out_shardings(mesh),
        )
        new_state, loss = jitted(state, batch)
        assert_close((new_state, loss), expected)
        assert new_state["params"][0]["w"].sharding.spec == PartitionSpec(None, "model")


def test_typed_keys_have_shardings_of_their_own_rank():
    def step(state, x):
        return {"key": jax.random.split(state["key"])[0]}, x.sum()

    args = ({"key": jax.random.key(0)}, np.ones((8, 2), np.float32))
    plan = tepdist.plan(step, *args, cluster=CLUSTER)
    mesh = mesh_of(plan)
    for fn in (step, plan.constrain(step)):
        jitted = jax.jit(
            fn,
            in_shardings=plan.in_shardings(mesh),
            out_shardings=plan.out_shardings(mesh),
        )
        assert_close(jitted(*args), step(*args))


def test_new_keys_that_are_no_state_come_back_whole():
    step = tepdist.parallelize(
        lambda state, key: (state + 1, jax.random.split(key, 8)), cluster=CLUSTER
    )
    _, keys = step(np.ones((8,), np.float32), jax.random.key(0))
    assert keys.shape == (8,)
    expected = jax.random.split(jax.random.key(0), 8)
    np.testing.assert_array_equal(
        jax.random.key_data(keys), jax.random.key_data(expected)
    )


def test_a_saved_plan_holds_the_same_data(mlp, tmp_path):
    plan = tepdist.plan(mlp.train_step, mlp.state, mlp.batch, cluster=CLUSTER)
    plan.save(tmp_path / "plan.json")
    loaded = tepdist.Plan.load(tmp_path / "plan.json")
    assert isinstance(loaded, tepdist.Plan)
    assert to_json(loaded) == to_json(plan)
    assert loaded.argument_shardings() == plan.argument_shardings()
    with pytest.raises(PlanError, match="does not know the function's trees"):
        loaded.in_shardings(mesh_of(plan))


def test_a_plan_for_devices_that_are_elsewhere(mlp):
    plan = tepdist.plan(mlp.train_step, mlp.state, mlp.batch, cluster="2x8xh100")
    assert plan.stages[0].mesh.num_devices == 16


def test_the_devices_at_hand_are_the_default(mlp):
    plan = tepdist.plan(mlp.train_step, mlp.state, mlp.batch)
    assert plan.cluster.num_devices == len(jax.devices())


def test_what_traces_alike_may_be_constrained_and_nothing_else(mlp):
    plan = tepdist.plan(mlp.train_step, mlp.state, mlp.batch, cluster=CLUSTER)

    def again(state, batch):
        return mlp.train_step(state, batch)

    def other(state, batch):
        state, loss = mlp.train_step(state, batch)
        return state, 2 * loss

    def other_tree(state, batch):
        return [*mlp.train_step(state, batch)]

    assert plan.constrain(again).__name__ == "again"
    assert plan.constrain(jax.jit(mlp.train_step))
    for fn in (other, other_tree, lambda state, batch: (state, batch)):
        with pytest.raises(PlanError, match="is not the function that was planned"):
            plan.constrain(fn)


def test_importing_starts_nothing_and_every_public_name_is_there():
    code = (
        "import sys, tepdist; assert 'jax' not in sys.modules;"
        "assert set(tepdist.__all__) <= set(dir(tepdist));"
        "import tepdist.plans.types;"
        "assert all(getattr(tepdist, name) for name in tepdist.__all__);"
        "from jax.extend import backend;"
        "import jax; jax.config.update('jax_num_cpu_devices', 3);"  # refused if started
        "assert not hasattr(tepdist, 'nothing')"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
