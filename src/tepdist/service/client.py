"""The client: `connect`, and the session it gives."""

import contextlib
import secrets
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from tepdist.cluster.model import Cluster
from tepdist.errors import ConnectionLost, OptionsError, SessionError
from tepdist.frontends.call import Leaf, read_leaf
from tepdist.frontends.jax import Traced, trace
from tepdist.frontends.keys import key_data, wrap_key
from tepdist.frontends.step_options import StepOptions, read_step_options
from tepdist.plans.json import from_json
from tepdist.plans.types import Options, Plan
from tepdist.program import module as modules
from tepdist.runtime.devices import resolve_cluster
from tepdist.service import messages
from tepdist.service.access import Access
from tepdist.service.channel import Connection
from tepdist.service.convert import options_to_proto, roles_to_proto
from tepdist.service.lease import LeaseKeeper
from tepdist.service.protocol import tepdist_pb2 as pb
from tepdist.service.remote import PendingInit, RemoteArray, abstract, remote_arrays
from tepdist.service.server import Server, make_core
from tepdist.service.step import RemoteStep
from tepdist.service.tensors import join_texts

LOCAL = "local"
Progress = Callable[[str, float], None]


def connect(
    address: str | None = None,
    *,
    token: str | None = None,
    tls: bool | str | Path | None = None,
    ttl_s: float | None = None,
    cluster: Cluster | str | None = None,
    progress: Progress | None = None,
) -> "Session":
    """Opens a session on a server.

    Args:
        address: ``host:port``; None or ``local`` for a server in this process.
        token: From the server's token file; a server without one takes any, or None.
        tls: True to trust the system's authorities, a PEM file to trust those in it;
            None to talk in the clear.
        ttl_s: Lease asked for [s]; the server's own if None. It is kept from a
            thread as long as the session is open.
        cluster: For a server in this process: what it plans for; None for the devices
            at hand.
        progress: Told (phase, fraction of it) while the server plans.

    Raises:
        ConnectionLost: if no server answers there.
        SessionError: if it does not let us in.
        ClusterError: if the cluster's devices are not at hand.
        OptionsError: if a cluster is given for a server elsewhere, which has its own.
    """
    if address is not None and address != LOCAL:
        if cluster is not None:
            raise OptionsError(
                f"cluster={cluster!r} is given for a server that has its own",
                where=f"the server at {address}",
                hint="leave cluster out, or start the server with --cluster",
            )
        connection = Connection(address, token=token, tls=tls)
        return Session(connection, ttl_s=ttl_s, progress=progress)
    # Whoever else is on this machine can reach the port, but does not know the token.
    secret = secrets.token_hex(16)
    server = Server(
        "127.0.0.1:0",
        make_core(resolve_cluster(cluster)),
        access=Access({secret: "this process"}),
    )
    connection = Connection(server.address, token=secret, tls=None)
    return Session(connection, ttl_s=ttl_s, progress=progress, server=server)


class Session:
    """What one client has on a server: functions planned there, tensors kept there.

    A context manager; on leaving it the server frees everything.

    Attributes:
        address: Of the server.
        platform: Of its devices.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        ttl_s: float | None,
        progress: Progress | None = None,
        server: Server | None = None,
    ) -> None:
        self._connection = connection
        self._progress = progress
        self._server = server
        self._garbage: deque[int] = deque()
        info = connection.server_info()
        opened = connection.ask("OpenSession", pb.OpenSessionRequest(ttl_s=ttl_s))
        self.address = connection.address
        self.platform: str = info.platform
        self._artifact_version = _older(
            modules.portable_version(), info.stablehlo_version
        )
        self._id: str = opened.session_id
        request = pb.KeepAliveRequest(session_id=self._id)
        keeper = LeaseKeeper(lambda: connection.ask("KeepAlive", request), opened.ttl_s)
        # A session that is dropped without being closed lets its lease lapse.
        self._stop_lease = weakref.finalize(self, keeper.stop)

    def parallelize(
        self, fn: Callable[..., Any], **options: Unpack[StepOptions]
    ) -> RemoteStep:
        """The same step on the server's devices; see `tepdist.parallelize`.

        Raises:
            OptionsError: naming an option that is unknown or not readable.
        """
        return RemoteStep(self, fn, read_step_options(fn, options))

    def init(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """State that `fn` makes on the server's devices.

        It is made, in shards, when the first step that takes it has a plan.

        Returns:
            The tree that `fn` returns, of remote arrays.

        Raises:
            ProgramError: if `fn` cannot run on a server.
        """
        left, named = jax.tree.map(abstract, (args, kwargs))
        traced = trace(fn, left, named, state_argnums=(), platform=self.lowered_for)
        values = jax.tree.leaves((args, kwargs))
        init = PendingInit(
            traced,
            [
                value if isinstance(value, RemoteArray) else _host_array(value, leaf)
                for value, leaf in zip(values, traced.call.leaves, strict=True)
            ],
        )
        init.arrays = [
            RemoteArray(self, leaf, pending=init, result=index)
            for index, leaf in enumerate(traced.results)
        ]
        return jax.tree.unflatten(traced.result_tree, init.arrays)

    def put(self, tree: Any) -> Any:
        """Sends host arrays up; returns the same tree of remote arrays."""
        values, structure = jax.tree.flatten(tree)
        leaves = [
            read_leaf(abstract(value), f"leaf {index}")
            for index, value in enumerate(values)
        ]
        sent = [
            (index, _host_array(value, leaves[index]))
            for index, value in enumerate(values)
            if not isinstance(value, RemoteArray)
        ]
        response = self._connection.send(
            "PutTensors", messages.upload(self._id, [array for _, array in sent])
        )
        for (index, _), handle in zip(sent, response.handles, strict=True):
            values[index] = RemoteArray(self, leaves[index], handle=handle)
        return jax.tree.unflatten(structure, values)

    def fetch(self, tree: Any) -> Any:
        """The same tree with host arrays in place of remote ones.

        Raises:
            StepFailed: if a step that makes one of them failed.
            StateConsumed: if one of them is gone.
        """
        arrays = remote_arrays(tree)
        host = dict(zip(map(id, arrays), self.fetch_arrays(arrays), strict=True))
        return jax.tree.map(lambda leaf: host.get(id(leaf), leaf), tree)

    def release(self, tree: Any) -> None:
        """Frees the remote arrays of a tree.

        Raises:
            SessionError: if one belongs to another session; nothing is freed then.
        """
        for array in remote_arrays(tree):
            if array.session is not self:
                raise SessionError(
                    f"{array!r} belongs to another session",
                    hint="release it through the session that made it",
                )
        ended = [array.end("it was released") for array in remote_arrays(tree)]
        handles = [handle for handle in ended if handle is not None]
        self._connection.ask(
            "Release",
            pb.ReleaseRequest(session_id=self._id, handles=handles + self._drained()),
        )

    def close(self) -> None:
        """Ends the session; the server frees what it holds."""
        if not self._stop_lease.alive:
            return
        self._stop_lease()
        with contextlib.suppress(ConnectionLost, SessionError):  # over already
            request = pb.CloseSessionRequest(session_id=self._id)
            self._connection.ask("CloseSession", request)
        self._connection.close()
        if self._server is not None:
            self._server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def submit(self, traced: Traced, options: Options) -> tuple[int, Plan]:
        """Has a traced function planned; returns its program's id and the plan."""
        header = pb.SubmitProgramHeader(options=options_to_proto(options))
        program_id, plan_json = self._submit(traced, header)
        return program_id, from_json(plan_json)

    def run(
        self, program_id: int, arguments: Sequence[RemoteArray | np.ndarray]
    ) -> tuple[int, list[int]]:
        """Starts a step; returns its number and the handles of its results."""
        sent = [
            argument.handle if isinstance(argument, RemoteArray) else argument
            for argument in arguments
        ]
        header = pb.StepHeader(
            session_id=self._id, program_id=program_id, release=self._drained()
        )
        response = self._connection.step(messages.step(header, sent))
        return response.step, list(response.results)

    def run_init(
        self, init: PendingInit, program_id: int | None, positions: Mapping[int, int]
    ) -> None:
        """Makes state that was waiting.

        Args:
            init: What makes it.
            program_id: The program that will take it; None if none does yet.
            positions: Result to the argument of that program that it will be.
        """
        target = pb.InitFor(program_id=program_id)
        if program_id is not None:
            target.results.extend(
                pb.InitResult(argument=positions.get(result))
                for result in range(len(init.arrays))
            )
        header = pb.SubmitProgramHeader(init_for=target)
        init_id, _ = self._submit(init.traced, header)
        _, handles = self.run(init_id, init.arguments)
        for array, handle in zip(init.arrays, handles, strict=True):
            array.arrive(handle)

    def fetch_arrays(self, arrays: Sequence[RemoteArray]) -> list[Any]:
        """Host arrays of remote ones, in order."""
        request = pb.FetchRequest(
            session_id=self._id, handles=[array.handle for array in arrays]
        )
        responses = self._connection.receive("Fetch", request)
        return [
            host
            if array.leaf.key_impl is None
            else wrap_key(jnp.asarray(host), array.leaf)
            for array, host in zip(arrays, messages.download(responses), strict=True)
        ]

    def wait_for(self, arrays: Sequence[RemoteArray]) -> None:
        """Waits for the steps that make these, and raises their errors."""
        request = pb.FetchRequest(
            session_id=self._id,
            handles=[array.handle for array in arrays],
            headers_only=True,
        )
        for _ in self._connection.receive("Fetch", request):
            pass

    def forget(self, handle: int) -> None:
        """The tensor is no longer needed; the server is told with the next call."""
        self._garbage.append(handle)

    def hlo_text(self, program_id: int) -> list[str]:
        """Compiled HLO of a program, one text per stage program."""
        request = pb.ProgramRequest(session_id=self._id, program_id=program_id)
        return join_texts(self._connection.receive("GetHlo", request))

    @property
    def lowered_for(self) -> str:
        """What JAX calls the server's platform when it lowers for it."""
        return "cuda" if self.platform == "gpu" else self.platform

    def _submit(
        self, traced: Traced, header: pb.SubmitProgramHeader
    ) -> tuple[int, str]:
        """Sends a program; returns its id and its plan's JSON."""
        header.session_id = self._id
        header.name = traced.name
        header.roles.CopyFrom(roles_to_proto(traced.roles))
        with modules.new_context():
            module = modules.write_portable(
                modules.parse(traced.module), self._artifact_version
            )
        program_id, plan_json = 0, bytearray()
        for answer in self._connection.exchange(
            "SubmitProgram", messages.submission(header, module)
        ):
            match answer.WhichOneof("part"):
                case "progress" if self._progress is not None:
                    self._progress(answer.progress.phase, answer.progress.fraction)
                case "submitted":
                    program_id = answer.submitted.program_id
                case "plan_json_chunk":
                    plan_json += answer.plan_json_chunk
        return program_id, plan_json.decode()

    def _drained(self) -> list[int]:
        handles = []
        while self._garbage:
            handles.append(self._garbage.popleft())
        return handles


def _host_array(value: Any, leaf: Leaf) -> np.ndarray:
    return np.asarray(key_data(value, leaf), dtype=leaf.flat_dtype)


def _older(one: str, other: str) -> str:
    """The lower of two versions such as 1.13.7."""
    return min(one, other, key=lambda version: tuple(map(int, version.split("."))))
