"""Every mistake of a client's: a clear error of the right class, server alive."""

import logging
import time

import grpc
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tepdist import errors
from tepdist.service.channel import Connection
from tepdist.service.client import Session, connect
from tepdist.service.protocol import tepdist_pb2 as pb
from tepdist.service.server import Server

from .conftest import open_session
from .models import batch_mlp, init_mlp, step_mlp
from .raw import Raw, exported, roles

CALLS_FOREIGN = """
func.func public @main(%a: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.custom_call @TARGET(%a) {has_side_effect = true}
    : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
"""


@pytest.mark.parametrize(
    "module",
    [
        b"",
        b"\x00\x01\x02random",
        exported()[:200],
        b"ML\xefR" + bytes(range(64)),
        b"module { func.func private @helper() { return } }",
        b"func.func public @main(%a: tensor<?xf32>) -> tensor<?xf32> "
        b"{ return %a : tensor<?xf32> }",
    ],
    ids=["empty", "random", "truncated", "damaged", "no main", "dynamic"],
)
def test_bytes_that_are_no_program(raw: Raw, module: bytes):
    with pytest.raises(errors.ProgramError) as refused:
        raw.submit(module)
    assert len(str(refused.value).splitlines()) <= 3


def test_bytes_that_end_the_compiler_leave_the_server_and_its_sessions(
    raw: Raw, server: Server
):
    (w,) = raw.put(np.ones(4, np.float32))
    with pytest.raises(errors.ProgramError, match="the compiler died"):
        raw.submit(nested(5000))
    program = raw.submit(exported(), roles=roles()).program_id
    response = raw.step(program, w, np.ones((8, 4), np.float32))
    assert raw.fetch(response.results[1])[0] == 32
    with open_session(server) as other:
        assert other.fetch(other.put(np.arange(3))).tolist() == [0, 1, 2]


def nested(depth: int) -> bytes:
    """Branches in branches; at some thousands MLIR's parser overflows its stack."""
    branches = '%r = "stablehlo.case"(%p) ({' * depth
    ends = "stablehlo.return %r : tensor<f32> }) : (tensor<i32>) -> tensor<f32> "
    return f"""
func.func @main(%p: tensor<i32>, %x: tensor<f32>) -> tensor<f32> {{
  {branches} %r = stablehlo.sine %x : tensor<f32> {ends * depth}
  return %r : tensor<f32>
}}
""".encode()


@pytest.mark.parametrize("target", ["xla_python_cpu_callback", "my_plugin"])
def test_custom_calls_that_lead_out_of_the_compiler(raw: Raw, target: str):
    with pytest.raises(errors.ProgramError, match=target):
        raw.submit(CALLS_FOREIGN.replace("TARGET", target).encode())


def test_roles_of_another_program(raw: Raw):
    short = roles()
    del short.arguments[1]
    with pytest.raises(errors.RolesError, match="name 1 arguments"):
        raw.submit(exported(), roles=short)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (pb.PlanOptions(memory_limit_bytes=8), errors.NoPlanFits),
        (pb.PlanOptions(mesh="3x5"), errors.TepdistError),
        (pb.PlanOptions(mesh="two"), errors.OptionsError),
        (pb.PlanOptions(level="O9"), errors.OptionsError),
        (
            pb.PlanOptions(constraints=[pb.Constraint(pattern="nothing/*")]),
            errors.OptionsError,
        ),
    ],
    ids=["memory", "mesh size", "mesh", "level", "constraint"],
)
def test_options_that_cannot_be_honoured(raw: Raw, options, kind):
    with pytest.raises(kind) as refused:
        raw.submit(exported(), roles=roles(), options=options)
    assert not isinstance(refused.value, errors.ServerFailed)


def test_a_tensor_of_another_shape_or_dtype_names_the_argument(raw: Raw):
    program = raw.submit(exported(), roles=roles()).program_id
    (w, wrong) = raw.put(np.ones(4, np.float32), np.ones(5, np.float32))
    x = np.ones((8, 4), np.float32)
    with pytest.raises(errors.StateError, match=r"argument w is f32\[5\]"):
        raw.step(program, wrong, x)
    with pytest.raises(errors.StateError, match=r"argument x is f64\[8,4\]"):
        raw.step(program, w, x.astype(np.float64))
    with pytest.raises(errors.SessionError, match="takes 2 arguments; 1 came"):
        raw.step(program, w)
    assert raw.step(program, w, x).step == 1  # none of it consumed the state


def test_a_consumed_handle(raw: Raw):
    program = raw.submit(exported(), roles=roles()).program_id
    (w,) = raw.put(np.ones(4, np.float32))
    x = np.ones((8, 4), np.float32)
    raw.step(program, w, x)
    with pytest.raises(errors.StateConsumed, match=f"tensor {w} is gone"):
        raw.step(program, w, x)
    with pytest.raises(errors.StateConsumed):
        raw.fetch(w)


def test_ids_of_another_session_are_unknown(server: Server, raw: Raw):
    other = Raw(raw.connection)
    program = raw.submit(exported(), roles=roles()).program_id
    (w,) = raw.put(np.ones(4, np.float32))
    with pytest.raises(errors.SessionError, match=f"no tensor {w} in this session"):
        other.fetch(w)
    with pytest.raises(errors.SessionError, match=f"no program {program} in this"):
        other.step(program, w, np.ones((8, 4), np.float32))
    other.connection.ask("Release", pb.ReleaseRequest(session_id=other.id, handles=[w]))
    np.testing.assert_array_equal(raw.fetch(w)[0], np.ones(4))
    request = pb.CloseSessionRequest(session_id=other.id)
    raw.connection.ask("CloseSession", request)


def test_a_session_that_never_was(raw: Raw):
    with pytest.raises(errors.SessionError, match="the session is unknown"):
        raw.connection.ask("KeepAlive", pb.KeepAliveRequest(session_id="0" * 32))


def test_one_tensor_for_two_arguments_of_which_one_is_donated(raw: Raw):
    lowered = jax.jit(lambda a, b: a + b).lower(jnp.ones(4), jnp.ones(4))
    both = pb.Roles(
        arguments=[
            pb.ArgumentRole(name="a", role=pb.ROLE_STATE, donated=True),
            pb.ArgumentRole(name="b", role=pb.ROLE_CONSTANT),
        ],
        results=[pb.ResultRole(name="a", replaces="a")],
    )
    program = raw.submit(lowered.as_text().encode(), roles=both).program_id
    (a,) = raw.put(np.ones(4, np.float32))
    with pytest.raises(errors.StateError, match="passed for a and b"):
        raw.step(program, a, a)


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [pb.StepRequest(chunk=pb.TensorChunk(data=b"x"))],
    ],
    ids=["nothing", "no header"],
)
def test_a_stream_that_is_none_of_the_protocols(raw: Raw, requests):
    with pytest.raises(errors.SessionError, match="begin with a header"):
        raw.connection.send("Step", requests)


def test_a_fault_of_the_servers_own_is_said_and_logged(
    raw: Raw, server: Server, caplog
):
    programs = server.core.sessions.all()[0].programs
    programs.add(None)  # no client can do this
    with caplog.at_level(logging.ERROR), pytest.raises(errors.ServerFailed):
        raw.connection.ask("GetStatus", pb.GetStatusRequest())
    assert "a call failed" in caplog.text
    programs.clear()


def test_state_of_another_shape_is_refused_by_the_step(session: Session):
    step = session.parallelize(step_mlp, level="O1")
    state, _ = step(session.put(init_mlp(jax.random.key(0))), batch_mlp(0))
    narrow = init_mlp(jax.random.key(0))
    narrow.params["w1"] = jnp.ones((16, 8))
    with pytest.raises(errors.StateError, match=r"'params/w1' is float32\[16,8\]"):
        step(session.put(narrow), batch_mlp(0))
    step(state, batch_mlp(0))


def test_a_function_that_calls_back_never_leaves_the_client(session: Session):
    def chatty(state, x):
        jax.debug.print("{}", x)
        return state, x.sum()

    with pytest.raises(errors.ProgramError, match="side effects"):
        session.parallelize(chatty)({"w": jnp.ones(2)}, jnp.ones(2))


def test_a_step_inside_jit(session: Session):
    step = session.parallelize(lambda w, x: (w + x, x.sum()), level="O1")
    with pytest.raises(errors.ProgramError, match="cannot be traced"):
        jax.jit(step)(jnp.ones(4), jnp.ones(4))


def test_another_sessions_remote_arrays(server: Server, session: Session):
    with open_session(server) as other:
        theirs = other.put(init_mlp(jax.random.key(0)))
        with pytest.raises(errors.SessionError, match="in this session"):
            session.parallelize(step_mlp, level="O1")(theirs, batch_mlp(0))
        other.fetch(theirs)


def test_nobody_answers():
    with pytest.raises(
        errors.ConnectionLost, match=r"127\.0\.0\.1:1 cannot be reached"
    ):
        connect("127.0.0.1:1")


def test_a_server_that_died(server: Server):
    with connect() as session:
        state = session.put(init_mlp(jax.random.key(0)))
        session._server.stop(0.0)
        with pytest.raises(errors.ConnectionLost, match="cannot be reached"):
            session.fetch(state)


def test_something_that_is_no_tepdist_server_answers():
    from concurrent.futures import ThreadPoolExecutor

    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with pytest.raises(errors.ConnectionLost, match="does not speak this protocol"):
        connect(f"127.0.0.1:{port}")
    other.stop(0.0)


def test_releasing_another_sessions_tree_frees_nothing(
    server: Server, session: Session
):
    tree = session.put({"w": np.ones((4, 4), np.float32)})
    with (
        open_session(server) as other,
        pytest.raises(errors.SessionError, match="belongs to another session"),
    ):
        other.release(tree)
    assert session.fetch(tree)["w"].sum() == 16


def test_a_closed_session_says_so(server: Server):
    session = open_session(server)
    tree = session.put({"w": np.ones(2, np.float32)})
    session.close()
    with pytest.raises(errors.SessionError, match="the session is closed"):
        session.fetch(tree)


def test_a_session_whose_lease_lapsed_says_so(server: Server):
    connection = Connection(server.address, token=None, tls=None)
    session = Session(connection, ttl_s=0.2)
    tree = session.put({"w": np.ones(2, np.float32)})
    session._stop_lease()  # as if this process had been paused
    while server.core.status().sessions:
        time.sleep(0.05)
    with pytest.raises(errors.SessionError, match="its lease lapsed"):
        session.fetch(tree)


@pytest.mark.parametrize("address", ["", "127.0.0.1", "http://127.0.0.1:1"])
def test_an_address_that_is_none(address: str):
    with pytest.raises(errors.OptionsError, match="is not host:port"):
        connect(address)
