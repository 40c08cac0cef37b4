"""What becomes of state when a step fails, breaks off or is cancelled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tepdist import errors
from tepdist.service import messages
from tepdist.service.client import Session
from tepdist.service.protocol import tepdist_pb2 as pb
from tepdist.service.server import Server

from .raw import Raw, exported, roles

# An execution that fails while it is under way: the kernel refuses `uplo`.
FAILS_UNDER_WAY = """
module @fails {
  func.func public @main(
      %a: tensor<4xf32> {tf.aliasing_output = 0 : i32}, %b: tensor<4x4xf32>)
      -> (tensor<4xf32>, tensor<f32>) {
    %0 = stablehlo.custom_call @lapack_spotrf_ffi(%b) {
      api_version = 4 : i32, mhlo.backend_config = {uplo = 7 : i64}
    } : (tensor<4x4xf32>) -> tensor<4x4xf32>
    %zero = stablehlo.constant dense<0.0> : tensor<f32>
    %sum = stablehlo.reduce(%0 init: %zero) applies stablehlo.add
      across dimensions = [0, 1] : (tensor<4x4xf32>, tensor<f32>) -> tensor<f32>
    %1 = stablehlo.broadcast_in_dim %sum, dims = [] : (tensor<f32>) -> tensor<4xf32>
    %2 = stablehlo.add %a, %1 : tensor<4xf32>
    return %2, %sum : tensor<4xf32>, tensor<f32>
  }
}
"""
SECOND_RESULT = ": tensor<4xf32>, tensor<4x4xf32>\n"


@pytest.mark.parametrize("state", ["donated", "kept"])
def test_a_step_that_fails_under_way_is_told_with_its_number(raw: Raw, state: str):
    stated = failing_roles(donated=state == "donated")
    program = raw.submit(FAILS_UNDER_WAY.encode(), roles=stated).program_id
    (a, other) = raw.put(np.ones(4, np.float32), np.ones(2))
    b = np.eye(4, dtype=np.float32)
    response = raw.step(program, a, b)
    with pytest.raises(errors.StepFailed, match="step 1 of 'p' failed"):
        raw.fetch(response.results[1])
    np.testing.assert_array_equal(raw.fetch(other)[0], np.ones(2))
    if state == "donated":
        with pytest.raises(errors.StateConsumed, match="a step consumed it"):
            raw.fetch(a)
        with pytest.raises(errors.StateConsumed, match="lost: step 1 of 'p' failed"):
            raw.fetch(response.results[0])
    else:
        for handle in (a, response.results[0]):
            np.testing.assert_array_equal(raw.fetch(handle)[0], np.ones(4))


def test_state_that_is_not_donated_goes_back_to_the_last_good_step(raw: Raw):
    good = raw.submit(exported(), roles=roles(donated=False)).program_id
    bad = raw.submit(FAILS_UNDER_WAY.encode(), roles=failing_roles()).program_id
    (state,) = raw.put(np.zeros(4, np.float32))
    for _ in range(2):
        state = raw.step(good, state, np.ones((8, 4), np.float32)).results[0]
    handles = [state]

    def step_on_and_on():
        for _ in range(200):
            response = raw.step(bad, handles[-1], np.eye(4, dtype=np.float32))
            released = pb.ReleaseRequest(session_id=raw.id, handles=[handles.pop()])
            raw.connection.ask("Release", released)  # a trainer holds the latest only
            handles.append(response.results[0])

    with pytest.raises(errors.StepFailed, match="the last good step"):
        step_on_and_on()
    np.testing.assert_array_equal(raw.fetch(handles[-1])[0], np.full(4, 16))


def test_a_step_without_a_loss_goes_back_too(raw: Raw):
    module = FAILS_UNDER_WAY.replace("return %2, %sum", "return %2, %0").replace(
        "-> (tensor<4xf32>, tensor<f32>) {", "-> (tensor<4xf32>, tensor<4x4xf32>) {"
    )
    module = module.replace(": tensor<4xf32>, tensor<f32>\n", SECOND_RESULT)
    stated = failing_roles()
    stated.arguments[1].role = pb.ROLE_STATE
    stated.results[1].replaces = "b"
    program = raw.submit(module.encode(), roles=stated).program_id
    before = raw.put(np.ones(4, np.float32), np.eye(4, dtype=np.float32))
    after = raw.step(program, *before).results
    with pytest.raises(errors.StepFailed, match="the last good step"):
        raw.fetch(*after)
    for handles in (before, after):
        state = raw.fetch(*handles)
        np.testing.assert_array_equal(state[0], np.ones(4))
        np.testing.assert_array_equal(state[1], np.eye(4))


@pytest.mark.parametrize("donate", [True, False])
def test_a_step_for_which_memory_runs_out(session: Session, donate):
    def hungry(w, x):
        rows = jax.lax.broadcasted_iota(jnp.float32, (2**23, 2**23), 0)
        many = jnp.sort(jnp.sin(x[0] + rows), axis=1)  # 256 TiB
        return w + many[0, 0], many[:, 0].sum()

    step = session.parallelize(
        hungry, level="O1", mesh="4", memory_limit=2**60, donate=donate
    )
    state = session.put(jnp.ones(4))
    after, loss = step(state, np.ones(4, np.float32))
    with pytest.raises(errors.StepFailed, match="Out of memory") as failed:
        float(loss)
    if donate:
        assert "the state it consumed is lost" in str(failed.value)
        with pytest.raises(errors.StateConsumed, match="lost: step 1 of 'hungry'"):
            session.fetch(after)
    else:
        np.testing.assert_array_equal(session.fetch(state), np.ones(4))
        np.testing.assert_array_equal(session.fetch(after), np.ones(4))
    modest = session.parallelize(lambda w, x: w + x, level="O1")
    anew = modest(session.put(jnp.ones(4)), np.ones(4, np.float32))
    np.testing.assert_array_equal(session.fetch(anew), np.full(4, 2))


def test_a_program_that_cannot_be_compiled_consumes_nothing(session: Session):
    def unknown(state, x):
        call = jax.ffi.ffi_call("mhlo.unknown", jax.ShapeDtypeStruct((4,), x.dtype))
        return {"w": state["w"] + call(x)}, x.sum()

    state = session.init(lambda: {"w": jnp.ones(4)})
    x = np.ones(4, np.float32)
    with pytest.raises(errors.ProgramError, match="XLA cannot compile"):
        session.parallelize(unknown, level="O1")(state, x)
    new, _ = session.parallelize(lambda s, x: ({"w": s["w"] + x}, x.sum()))(state, x)
    np.testing.assert_array_equal(session.fetch(new)["w"], np.full(4, 2))


def test_a_stream_that_breaks_off_changes_nothing(raw: Raw, server: Server):
    program = raw.submit(exported(), roles=roles()).program_id
    (w,) = raw.put(np.ones(4, np.float32))
    x = np.ones((8, 4), np.float32)
    header = pb.StepHeader(session_id=raw.id, program_id=program)
    whole = list(messages.step(header, [w, x]))
    whole[0].header.ClearField("chunks")
    with pytest.raises(errors.SessionError, match="ended after 0 of 128 bytes"):
        raw.connection.send("Step", whole)
    half = list(messages.upload(raw.id, [x, x]))[:-1]
    with pytest.raises(errors.SessionError, match="ended after 0 of 128 bytes"):
        raw.connection.send("PutTensors", half)

    def broken():
        yield whole[0]
        raise ConnectionAbortedError

    with pytest.raises(errors.ServerFailed, match="iterating requests"):
        raw.connection.send("Step", broken())
    (status,) = server.core.status().sessions
    assert status.num_tensors == 1
    assert raw.step(program, w, x).step == 1


@pytest.mark.parametrize("started", [False, True])
def test_a_cancelled_step_leaves_the_state(raw: Raw, server: Server, started):
    program = raw.submit(exported(), roles=roles()).program_id
    (w,) = raw.put(np.ones(4, np.float32))
    (held,) = server.core.sessions.all()
    header = pb.StepHeader(session_id=raw.id, program_id=program)
    (request,) = messages.step(header, [w, np.ones((8, 4), np.float32)])
    answers = iter([True, False] if started else [False])
    with pytest.raises(errors.SessionError, match="cancelled"):
        server.core.step(
            held,
            request.header,
            iter(request.header.chunks),
            is_wanted=lambda: next(answers),
        )
    expected = np.full(4, 9) if started else np.ones(4)
    np.testing.assert_array_equal(raw.fetch(w)[0], expected)
    (status,) = server.core.status().sessions
    assert status.num_tensors == 1


def test_half_of_a_state_is_not_a_step_ahead_of_the_rest(raw: Raw, server: Server):
    lowered = jax.jit(lambda a, b: (a + b, a - b)).lower(jnp.ones(4), jnp.ones(4))
    stated = failing_roles(donated=True)
    stated.arguments[1].role = pb.ROLE_STATE
    stated.results[1].replaces = "b"
    program = raw.submit(lowered.as_text().encode(), roles=stated).program_id
    a, b = raw.put(np.ones(4, np.float32), np.ones(4, np.float32))
    (held,) = server.core.sessions.all()
    header = pb.StepHeader(session_id=raw.id, program_id=program)
    (request,) = messages.step(header, [a, b])
    answers = iter([True, False])
    with pytest.raises(errors.SessionError, match="cancelled"):
        server.core.step(
            held, request.header, iter([]), is_wanted=lambda: next(answers)
        )
    with pytest.raises(errors.StateConsumed, match="was cancelled"):
        raw.fetch(a)
    np.testing.assert_array_equal(raw.fetch(b)[0], np.ones(4))


def test_a_step_that_fails_under_way_is_told_by_a_later_step(raw: Raw):
    program = raw.submit(FAILS_UNDER_WAY.encode(), roles=failing_roles()).program_id
    (a,) = raw.put(np.ones(4, np.float32))

    def step_often():
        for _ in range(200):
            raw.step(program, a, np.eye(4, dtype=np.float32))

    with pytest.raises(errors.StepFailed, match="step 1 of 'p' failed"):
        step_often()
    np.testing.assert_array_equal(raw.fetch(a)[0], np.ones(4))


def failing_roles(*, donated: bool = False) -> pb.Roles:
    return pb.Roles(
        arguments=[
            pb.ArgumentRole(name="a", role=pb.ROLE_STATE, donated=donated),
            pb.ArgumentRole(name="b", role=pb.ROLE_BATCH),
        ],
        results=[pb.ResultRole(name="a", replaces="a"), pb.ResultRole(name="loss")],
    )
