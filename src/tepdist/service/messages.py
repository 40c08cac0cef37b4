"""The streams of messages that a client sends and receives."""

import itertools
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
    """A header with handles and types, then the bytes of what has no handle.

    What fits goes along with the header: every message costs about 0.3 ms.
    """
    sent = []
    for index, argument in enumerate(arguments):
        if isinstance(argument, np.ndarray):
            header.arguments.add(tensor=Spec.of(argument).to_proto())
            sent.append((index, argument))
        else:
            header.arguments.add(handle=argument)
    chunks = itertools.chain.from_iterable(itertools.starmap(chunks_of, sent))
    room = MAX_CHUNK_BYTES
    for chunk in chunks:
        room -= len(chunk.data)
        if room < 0:
            chunks = itertools.chain([chunk], chunks)
            break
        header.chunks.append(chunk)
    yield pb.StepRequest(header=header)
    for chunk in chunks:
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
