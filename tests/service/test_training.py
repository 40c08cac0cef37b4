"""What a server computes is what one device computes."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tepdist.errors import PlanError, StateConsumed
from tepdist.lowering.dtypes import DTYPES as WIRE_DTYPES
from tepdist.service.client import Session, connect
from tepdist.service.server import Server

from .conftest import open_session
from .models import (
    batch_linear,
    batch_mlp,
    evaluate_mlp,
    init_linear,
    init_mlp,
    loss_mlp,
    step_linear,
    step_mlp,
)

NUM_STEPS = 8
# Those that JAX makes without being asked for 64 bits, and XLA runs on CPU devices.
DTYPES = {
    name: dtype
    for name, dtype in WIRE_DTYPES.items()
    if name not in ("i2", "ui2", "i64", "ui64", "f64", "complex<f64>")
}


def assert_close(one, other):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other
    )


def train_mlp(session: Session):
    step = session.parallelize(step_mlp)
    state = session.init(init_mlp, jax.random.key(1))
    losses = []
    for number in range(NUM_STEPS):
        state, loss = step(state, batch_mlp(number))
        losses.append(loss)  # not looked at before all steps are under way
    return [float(loss) for loss in losses], session.fetch(state)


def train_mlp_here():
    step = jax.jit(step_mlp)
    state = init_mlp(jax.random.key(1))
    losses = []
    for number in range(NUM_STEPS):
        state, loss = step(state, batch_mlp(number))
        losses.append(float(loss))
    return losses, state


def train_linear(session: Session):
    step = session.parallelize(step_linear)
    state = session.put(init_linear(jax.random.key(2)))
    losses = []
    for number in range(NUM_STEPS):
        state, found = step(state, *batch_linear(number))
        losses.append(float(found["loss"]))
    return losses, data(session.fetch(state))


def train_linear_here():
    step = jax.jit(step_linear)
    state = init_linear(jax.random.key(2))
    losses = []
    for number in range(NUM_STEPS):
        state, found = step(state, *batch_linear(number))
        losses.append(float(found["loss"]))
    return losses, data(state)


def data(state):
    return {**state, "key": jax.random.key_data(state["key"])}


def test_two_clients_train_different_models_at_once(server: Server):
    trained = {}

    def client(train):
        with open_session(server) as session:
            trained[train] = train(session)

    clients = [
        threading.Thread(target=client, args=[train])
        for train in (train_mlp, train_linear)
    ]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert_close(trained[train_mlp], train_mlp_here())
    assert_close(trained[train_linear], train_linear_here())
    assert server.core.status().sessions == []


@pytest.mark.parametrize("mesh", ["4", "2x2"])
def test_initial_state_is_one_devices_bit_for_bit(session: Session, mesh: str):
    state = session.init(init_mlp, jax.random.key(1))
    evaluate = session.parallelize(evaluate_mlp, mesh=mesh)
    evaluate(state, batch_mlp(0))
    here = jax.jit(init_mlp)(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, session.fetch(state), here)


def test_init_without_a_step_is_made_when_it_is_fetched(session: Session):
    state = session.init(init_linear, jax.random.key(3))
    fetched = session.fetch(state)
    assert fetched["key"] == jax.random.key(3)
    np.testing.assert_array_equal(fetched["w"], np.zeros(8))


def test_evaluation_takes_the_trained_state_without_consuming_it(session: Session):
    step = session.parallelize(step_mlp)
    evaluate = session.parallelize(evaluate_mlp, mesh="2x2")
    state = session.init(init_mlp, jax.random.key(1))
    for number in range(3):
        state, _ = step(state, batch_mlp(number))
        found = float(evaluate(state, batch_mlp(9)))
        here = loss_mlp(session.fetch(state.params), batch_mlp(9))
        assert found == pytest.approx(float(here), rel=1e-4)


def test_another_batch_shape_plans_again_and_keeps_the_state_where_it_is(
    session: Session,
):
    step = session.parallelize(step_mlp)
    here = jax.jit(step_mlp)
    state, expected = (
        session.init(init_mlp, jax.random.key(1)),
        init_mlp(jax.random.key(1)),
    )
    shardings = []
    for size in (32, 16, 32):
        batch = batch_mlp(0, size)
        state, loss = step(state, batch)
        expected, expected_loss = here(expected, batch)
        assert float(loss) == pytest.approx(float(expected_loss), rel=1e-4)
        shardings.append(step.plan.argument_shardings())
    for plan in shardings[1:]:
        for name, sharding in plan.items():
            if name.startswith(("params", "moments")):
                assert sharding == shardings[0][name]


def test_without_donation_the_old_state_stays(session: Session):
    step = session.parallelize(step_mlp, donate=False)
    state = session.put(init_mlp(jax.random.key(1)))
    first, again = step(state, batch_mlp(0)), step(state, batch_mlp(0))
    jax.block_until_ready(first)
    assert_close(session.fetch(first), session.fetch(again))


def test_a_consumed_state_is_refused_here_and_said_which_step_took_it(session: Session):
    step = session.parallelize(step_mlp)
    old = session.init(init_mlp, jax.random.key(1))
    step(old, batch_mlp(0))
    with pytest.raises(StateConsumed, match="step 1 of step_mlp consumed it"):
        step(old, batch_mlp(0))
    with pytest.raises(StateConsumed):
        session.fetch(old)


def test_a_plan_comes_with_its_step_and_the_compiled_text(session: Session):
    step = session.parallelize(step_mlp, level="O1")
    with pytest.raises(PlanError, match="no plan before"):
        _ = step.plan
    step(session.put(init_mlp(jax.random.key(1))), batch_mlp(0))
    assert step.plan.roles.results[-1].is_loss
    (text,) = step.hlo_text()
    assert text.startswith("HloModule")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8", "uint32", "bool"])
def test_what_was_put_comes_back(session: Session, dtype):
    tree = {"a": jnp.ones((3, 5), dtype), "b": [np.zeros((), dtype), jnp.zeros((0, 2))]}
    back = session.fetch(session.put(tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)


def test_state_and_batch_of_any_dtype(session: Session):
    sample = 1 + jnp.arange(12).reshape(4, 3) % 2  # not 0, which f8E8M0FNU lacks
    state = {name: sample.astype(dtype) for name, dtype in DTYPES.items()}
    state["key"], state["none"] = jax.random.key(3), jnp.zeros((0, 3))
    state["scalar"] = jnp.float32(7)

    def step(state, batch):
        return dict(state, count=state["i32"] + 1), batch, batch["f32"].sum()

    run = session.parallelize(step, level="O1")
    given = {name: np.asarray(state[name]) for name in ("i1", "ui4", "bf16", "f32")}
    held = session.put({**state, "count": state["i32"]})
    for _ in range(2):
        held, batch, loss = run(held, given)
    assert float(loss) == 18
    back = session.fetch(held)
    assert back.pop("count").sum() == 30
    for one, other in ((back, state), (session.fetch(batch), given)):
        assert {name: leaf.dtype for name, leaf in one.items()} == {
            name: leaf.dtype for name, leaf in other.items()
        }
        for name in other:
            assert (one[name] == other[name]).all()


def test_a_batch_of_many_chunks(session: Session):
    step = session.parallelize(lambda w, x: (w + x[-1], x.max()), level="O1")
    x = np.arange(5 * 2**20, dtype=np.float32)
    state, loss = step(session.put(jnp.zeros(4)), x)
    assert float(loss) == x[-1]
    np.testing.assert_array_equal(session.fetch(state), np.full(4, x[-1]))


def test_dropped_tensors_are_freed_with_the_next_step(server: Server, session: Session):
    step = session.parallelize(step_mlp, level="O1")
    state = session.put(init_mlp(jax.random.key(1)))
    num_leaves = len(jax.tree.leaves(state))
    for number in range(5):
        state, loss = step(state, batch_mlp(number))
    (status,) = server.core.status().sessions
    assert status.num_tensors <= num_leaves + 2  # the last two losses
    session.release((state, loss))
    (status,) = server.core.status().sessions
    assert status.num_tensors == 0
    assert status.device_bytes == 0


def test_connect_without_an_address_serves_in_this_process():
    with connect() as session:
        state = session.put({"w": np.ones(3)})
        np.testing.assert_array_equal(session.fetch(state)["w"], np.ones(3))
