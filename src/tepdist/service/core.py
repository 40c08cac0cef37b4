"""What each call of the protocol does, without sockets.

The servicer hands messages in and errors out; here are sessions, programs and
devices. Every method may raise any `TepdistError`.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future

import numpy as np

from tepdist.plans.types import Options
from tepdist.program import module as modules
from tepdist.service.convert import (
    argument_to_proto,
    options_from_proto,
    result_to_proto,
    roles_from_proto,
)
from tepdist.service.engine import Engine, Progress, Target
from tepdist.service.faults import bad_request
from tepdist.service.held import (
    ClientSession,
    HeldTensor,
    LoadedProgram,
    bytes_of,
    check_spec,
)
from tepdist.service.protocol import tepdist_pb2 as pb
from tepdist.service.sessions import Sessions
from tepdist.service.steps import DeviceQueue, Step, fetch, ready
from tepdist.service.tensors import (
    MAX_CHUNK_BYTES,
    Spec,
    assemble,
    chunks_of,
    text_chunks,
)
from tepdist.version import __version__

PROTOCOL_VERSION = 1


class Core:
    """The server behind the protocol.

    Args:
        engine: Devices and cluster.
        session_ttl_s: Longest lease [s].
    """

    def __init__(self, engine: Engine, session_ttl_s: float) -> None:
        self._engine = engine
        self._queue = DeviceQueue()
        self._began_s = time.monotonic()
        self.sessions: Sessions[HeldTensor, LoadedProgram] = Sessions(
            session_ttl_s, time.monotonic
        )

    def server_info(self) -> pb.GetServerInfoResponse:
        device = self._engine.devices[0]
        return pb.GetServerInfoResponse(
            protocol_version=PROTOCOL_VERSION,
            server_version=__version__,
            jaxlib_version=modules.jaxlib_version(),
            stablehlo_minimum_version=modules.minimum_version(),
            stablehlo_version=modules.current_version(),
            platform=device.platform,
            device_kind=device.device_kind,
            num_devices=len(self._engine.devices),
            cluster=self._engine.cluster.name,
            max_chunk_bytes=MAX_CHUNK_BYTES,
        )

    def submit(
        self, session: ClientSession, header: pb.SubmitProgramHeader, module: bytes
    ) -> Iterator[pb.SubmitProgramResponse]:
        """Progress while the planner works, then the program and its plan."""
        phases: queue.SimpleQueue[tuple[str, float] | None] = queue.SimpleQueue()
        phases.put(("queue", 0.0))
        left = threading.Event()

        def report(phase: str, fraction: float) -> None:
            if left.is_set():
                raise CancelledError
            phases.put((phase, fraction))

        job = self._engine.planner.submit(
            self._load, session, header, module=module, report=report
        )
        job.add_done_callback(lambda _: phases.put(None))
        try:
            while (phase := phases.get()) is not None:
                yield pb.SubmitProgramResponse(
                    progress=pb.Progress(phase=phase[0], fraction=phase[1])
                )
            yield from _submitted(session, job)
        finally:  # if nobody waits any more, others' programs need not either
            left.set()
            job.cancel()

    def _load(
        self,
        session: ClientSession,
        header: pb.SubmitProgramHeader,
        *,
        module: bytes,
        report: Progress,
    ) -> LoadedProgram:
        roles = roles_from_proto(header.roles) if header.HasField("roles") else None
        name = header.name or "program"
        if header.HasField("init_for"):
            target = _target(session, header.init_for)
            return self._engine.load_init(module, roles, target, name=name)
        options = (
            options_from_proto(header.options)
            if header.HasField("options")
            else Options()
        )
        return self._engine.load(
            module,
            roles,
            options,
            name=name,
            progress=report,
        )

    def plan(self, session: ClientSession, program_id: int) -> Iterator[pb.TextChunk]:
        program = session.programs.get(program_id)
        if program.plan_json is None:
            raise bad_request(f"{program.name!r} is an init program: it has no plan")
        return text_chunks([program.plan_json])

    def hlo(self, session: ClientSession, program_id: int) -> Iterator[pb.TextChunk]:
        program = session.programs.get(program_id)
        return text_chunks(program.executable.hlo_text())

    def put(
        self,
        session: ClientSession,
        header: pb.PutTensorsHeader,
        chunks: Iterator[pb.TensorChunk],
    ) -> pb.PutTensorsResponse:
        specs = [Spec.from_proto(tensor) for tensor in header.tensors]
        held = [
            HeldTensor(array, specs[index])
            for index, array in assemble(list(enumerate(specs)), chunks)
        ]
        # Not before all are here: the handles of half an upload are nobody's.
        return pb.PutTensorsResponse(handles=map(session.tensors.add, held))

    def step(
        self,
        session: ClientSession,
        header: pb.StepHeader,
        chunks: Iterator[pb.TensorChunk],
        *,
        is_wanted: Callable[[], bool],
    ) -> pb.StepResponse:
        """Starts a step, unless by then nobody waits for its results' handles."""
        session.tensors.remove(header.release)
        program = session.programs.get(header.program_id)
        arguments = _arguments(program, header.arguments, chunks)
        step = Step(session, program, arguments, is_wanted)
        number, results = self._queue.run(step)
        return pb.StepResponse(step=number, results=results)

    def fetch(
        self, session: ClientSession, request: pb.FetchRequest
    ) -> Iterator[pb.FetchResponse]:
        """Each tensor's header and bytes; one tensor at a time is in host memory."""
        for handle in request.handles:  # refuse before anything is sent
            session.tensors.get(handle)
        for index, handle in enumerate(request.handles):
            spec = ready(session, handle).spec.to_proto()
            yield pb.FetchResponse(header=pb.TensorHeader(index=index, tensor=spec))
            if not request.headers_only:
                for chunk in chunks_of(index, fetch(session, handle)):
                    yield pb.FetchResponse(chunk=chunk)

    def status(self) -> pb.GetStatusResponse:
        now_s = time.monotonic()
        return pb.GetStatusResponse(
            uptime_s=now_s - self._began_s,
            sessions=[_status(session, now_s) for session in self.sessions.all()],
        )

    def close(self) -> None:
        """Frees everything; no call may be under way."""
        self.sessions.close_all()
        self._engine.close()


def _submitted(
    session: ClientSession, job: "Future[LoadedProgram]"
) -> Iterator[pb.SubmitProgramResponse]:
    program = job.result()
    yield pb.SubmitProgramResponse(
        submitted=pb.Submitted(
            program_id=session.programs.add(program),
            arguments=[
                pb.ArgumentSpec(role=argument_to_proto(role), tensor=spec.to_proto())
                for role, spec in program.arguments
            ],
            results=[
                pb.ResultSpec(role=result_to_proto(role), tensor=spec.to_proto())
                for role, spec in program.results
            ],
        )
    )
    if program.plan_json is not None:
        for chunk in text_chunks([program.plan_json]):
            yield pb.SubmitProgramResponse(plan_json_chunk=chunk.data)


def _target(session: ClientSession, message: pb.InitFor) -> Target:
    program = (
        session.programs.get(message.program_id)
        if message.HasField("program_id")
        else None
    )
    return Target(
        program,
        tuple(
            result.argument if result.HasField("argument") else None
            for result in message.results
        ),
    )


def _arguments(
    program: LoadedProgram,
    arguments: Sequence[pb.Argument],
    chunks: Iterator[pb.TensorChunk],
) -> list[int | np.ndarray]:
    """Handles as they stand; tensors from their chunks, checked before they come."""
    if len(arguments) != len(program.arguments):
        raise bad_request(
            f"{program.name!r} takes {len(program.arguments)} arguments; "
            f"{len(arguments)} came"
        )
    sent: list[tuple[int, Spec]] = []
    for index, argument in enumerate(arguments):
        match argument.WhichOneof("value"):
            case "handle":
                continue
            case "tensor":
                spec = Spec.from_proto(argument.tensor)
                role, wanted = program.arguments[index]
                check_spec(role, wanted, spec)
                sent.append((index, spec))
            case _:
                raise bad_request(f"argument {index} is neither handle nor tensor")
    arrays = dict(assemble(sent, chunks))
    return [
        arrays.get(index, argument.handle) for index, argument in enumerate(arguments)
    ]


def _status(session: ClientSession, now_s: float) -> pb.SessionStatus:
    # Without its lock, which a step holds while it waits for the devices.
    on_devices, in_host = bytes_of(session)
    return pb.SessionStatus(
        number=session.number,
        client=session.client or "",
        age_s=now_s - session.opened_s,
        lease_left_s=max(session.expires_s - now_s, 0.0),
        num_tensors=len(session.tensors),
        device_bytes=on_devices,
        host_bytes=in_host,
        programs=[
            pb.ProgramStatus(
                name=program.name,
                fingerprint=program.fingerprint or "",
                num_steps=program.num_steps,
            )
            for _, program in session.programs.items()
        ],
    )
