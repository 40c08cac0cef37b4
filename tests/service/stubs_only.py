"""A client that knows nothing of ours but the stubs: no JAX, no tepdist.

    python stubs_only.py STUBS_FOLDER HOST:PORT PROGRAM INPUTS

PROGRAM is an exported program with its roles beside it. INPUTS is a folder with one
file of raw bytes per argument, ``0.bin``, ``1.bin``, ... Runs three steps on the same
batch and prints the losses as a JSON list.
"""

import json
import struct
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import grpc
import tepdist_pb2 as pb
import tepdist_pb2_grpc

CHUNK_BYTES = 2**20
ROLES = {"state": pb.ROLE_STATE, "batch": pb.ROLE_BATCH, "constant": pb.ROLE_CONSTANT}


def main() -> None:
    _, _, address, path, folder = sys.argv
    program, inputs = Path(path), Path(folder)
    stub = tepdist_pb2_grpc.TepdistStub(grpc.insecure_channel(address))
    assert stub.GetServerInfo(pb.GetServerInfoRequest()).protocol_version == 1
    session = stub.OpenSession(pb.OpenSessionRequest()).session_id
    submitted = submit(stub, session, program)
    names = [argument.role.name for argument in submitted.arguments]
    data = {
        name: (inputs / f"{index}.bin").read_bytes() for index, name in enumerate(names)
    }
    state = put_state(stub, session, submitted, data)
    losses = []
    for _ in range(3):
        response = stub.Step(step(session, submitted, state, data))
        for result, handle in zip(submitted.results, response.results, strict=True):
            if result.role.HasField("replaces"):
                state[result.role.replaces] = handle
            elif result.role.is_loss:
                losses += fetch_f32(stub, session, handle)
    stub.CloseSession(pb.CloseSessionRequest(session_id=session))
    print(json.dumps(losses))
    ours = [name for name in sys.modules if name.split(".")[0] in ("jax", "tepdist")]
    assert not ours, ours


def submit(stub, session, path):
    sidecar = json.loads(path.with_name(path.name + ".roles.json").read_text())
    roles = pb.Roles(
        arguments=[
            pb.ArgumentRole(**{**entry, "role": ROLES[entry["role"]]})
            for entry in sidecar["arguments"]
        ],
        results=[
            pb.ResultRole(
                name=entry["name"], replaces=entry["replaces"], is_loss=entry["is_loss"]
            )
            for entry in sidecar["results"]
        ],
    )
    header = pb.SubmitProgramHeader(session_id=session, name=path.name, roles=roles)

    def requests():
        yield pb.SubmitProgramRequest(header=header)
        for chunk in chunks(path.read_bytes()):
            yield pb.SubmitProgramRequest(module_chunk=chunk)

    for answer in stub.SubmitProgram(requests()):
        if answer.WhichOneof("part") == "submitted":
            submitted = answer.submitted
    return submitted


def put_state(stub, session, submitted, data):
    arguments = [a for a in submitted.arguments if a.role.role == pb.ROLE_STATE]

    def requests():
        header = pb.PutTensorsHeader(
            session_id=session, tensors=[argument.tensor for argument in arguments]
        )
        yield pb.PutTensorsRequest(header=header)
        for index, argument in enumerate(arguments):
            for chunk in chunks(data[argument.role.name]):
                yield pb.PutTensorsRequest(
                    chunk=pb.TensorChunk(index=index, data=chunk)
                )

    handles = stub.PutTensors(requests()).handles
    names = [argument.role.name for argument in arguments]
    return dict(zip(names, handles, strict=True))


def step(session, submitted, state, data):
    header = pb.StepHeader(session_id=session, program_id=submitted.program_id)
    sent = []
    for index, argument in enumerate(submitted.arguments):
        name = argument.role.name
        if name in state:
            header.arguments.add(handle=state[name])
        else:
            header.arguments.add(tensor=argument.tensor)
            sent.append((index, data[name]))
    yield pb.StepRequest(header=header)
    for index, raw in sent:
        for chunk in chunks(raw):
            yield pb.StepRequest(chunk=pb.TensorChunk(index=index, data=chunk))


def fetch_f32(stub, session, handle):
    request = pb.FetchRequest(session_id=session, handles=[handle])
    raw = b"".join(answer.chunk.data for answer in stub.Fetch(request))
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def chunks(raw):
    return (raw[at : at + CHUNK_BYTES] for at in range(0, len(raw), CHUNK_BYTES))


if __name__ == "__main__":
    main()
