"""The streams of messages that a client sends and receives."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tepdist.service.protocol import tepdist_pb2 as pb
from tepdist.service.tensors import MAX_CHUNK_BYTES, Spec, assemble, chunks_of


def submission(
    header: pb.SubmitProgramHeader, module: bytes
) -> Iterator[pb.SubmitProgramRequest]:
    """A header, then the module in chunks."""
    yield pb.SubmitProgramRequest(header=header)
    for start in range(0, len(module), MAX_CHUNK_BYTES):
        yield pb.SubmitProgramRequest(
            module_chunk=module[start : start + MAX_CHUNK_BYTES]
        )


def step(
    header: pb.StepHeader, arguments: Sequence[int | np.ndarray]
) -> Iterator[pb.StepRequest]:
    """A header with handles and types, then the bytes of what has no handle."""
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            header.arguments.add(tensor=Spec.of(argument).to_proto())
        else:
            header.arguments.add(handle=argument)
    yield pb.StepRequest(header=header)
    for index, argument in enumerate(arguments):
        if isinstance(argument, np.ndarray):
            for chunk in chunks_of(index, argument):
                yield pb.StepRequest(chunk=chunk)


def upload(
    session_id: str, arrays: Sequence[np.ndarray]
) -> Iterator[pb.PutTensorsRequest]:
    """A header with all types, then the bytes of each."""
    specs = [Spec.of(array).to_proto() for array in arrays]
    header = pb.PutTensorsHeader(session_id=session_id, tensors=specs)
    yield pb.PutTensorsRequest(header=header)
    for index, array in enumerate(arrays):
        for chunk in chunks_of(index, array):
            yield pb.PutTensorsRequest(chunk=chunk)


def download(responses: Iterable[pb.FetchResponse]) -> Iterator[np.ndarray]:
    """The tensors of a fetch, in order."""
    stream = iter(responses)
    for response in stream:
        spec = Spec.from_proto(response.header.tensor)
        rest = (following.chunk for following in stream)
        for _, array in assemble([(response.header.index, spec)], rest):
            yield array
