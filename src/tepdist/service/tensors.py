"""Tensors and texts as chunks of bytes, and back.

Raw little-endian bytes, row major, by MLIR dtype name.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from tepdist.errors import StateError
from tepdist.lowering.dtypes import DTYPES
from tepdist.service.faults import bad_request
from tepdist.service.protocol import tepdist_pb2 as pb

# Of 64 KiB, 256 KiB, 1 MiB and 3 MiB the fastest over loopback (2 cores, 2026-11); the
# default limit of other languages' clients is 4 MiB.
MAX_CHUNK_BYTES = 2**20

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Spec:
    """Shape and element type of a tensor.

    Attributes:
        dtype: MLIR name.
        shape: Extents of its dims.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes_(self) -> int:
        """Length on the wire [B]."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    def to_proto(self) -> pb.TensorSpec:
        return pb.TensorSpec(dtype=self.dtype, shape=self.shape)

    @staticmethod
    def of(array: np.ndarray | jax.Array | jax.ShapeDtypeStruct) -> "Spec":
        """The spec of an array.

        Raises:
            StateError: if its dtype is none of the wire's.
        """
        name = _NAMES.get(np.dtype(array.dtype))
        if name is None:
            raise StateError(f"a tensor of dtype {array.dtype} cannot be sent")
        return Spec(name, tuple(array.shape))

    @staticmethod
    def from_proto(message: pb.TensorSpec) -> "Spec":
        """Reads a spec.

        Raises:
            StateError: if there is no such dtype.
        """
        if message.dtype not in DTYPES:
            raise StateError(
                f"there is no dtype {message.dtype!r}",
                hint=f"one of {', '.join(DTYPES)}",
            )
        return Spec(message.dtype, tuple(message.shape))


def chunks_of(index: int, array: np.ndarray) -> Iterator[pb.TensorChunk]:
    """A tensor's bytes in chunks; none for an empty tensor."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    for start in range(0, len(data), MAX_CHUNK_BYTES):
        yield pb.TensorChunk(
            index=index, data=bytes(data[start : start + MAX_CHUNK_BYTES])
        )


def text_chunks(texts: Sequence[str]) -> Iterator[pb.TextChunk]:
    """Texts in chunks; an empty text is one empty chunk."""
    for index, text in enumerate(texts):
        data = text.encode()
        for start in range(0, max(len(data), 1), MAX_CHUNK_BYTES):
            yield pb.TextChunk(index=index, data=data[start : start + MAX_CHUNK_BYTES])


def join_texts(chunks: Iterable[pb.TextChunk]) -> list[str]:
    """The texts that `text_chunks` cut."""
    parts: dict[int, bytearray] = {}
    for chunk in chunks:
        parts.setdefault(chunk.index, bytearray()).extend(chunk.data)
    return [parts[index].decode() for index in sorted(parts)]


def assemble(
    specs: Sequence[tuple[int, Spec]], chunks: Iterator[pb.TensorChunk]
) -> Iterator[tuple[int, np.ndarray]]:
    """Tensors from their chunks, each as soon as it is whole.

    Args:
        specs: (index on the wire, what it is) of each tensor, in the order sent.
        chunks: What arrives; no more of it is taken than the tensors need.

    Raises:
        SessionError: if chunks are missing, too long or of another tensor.
        StateError: if a tensor is larger than any memory.
    """
    for index, spec in specs:
        data = _room_for(index, spec)
        filled = 0
        while filled < spec.bytes_:
            chunk = next(chunks, None)
            if chunk is None:
                raise bad_request(
                    f"tensor {index} ended after {filled} of {spec.bytes_} bytes"
                )
            end = filled + len(chunk.data)
            if chunk.index != index or not filled < end <= spec.bytes_:
                raise bad_request(
                    f"a chunk of {len(chunk.data)} bytes of tensor {chunk.index} came "
                    f"where tensor {index} has {spec.bytes_ - filled} to go"
                )
            data[filled:end] = np.frombuffer(chunk.data, np.uint8)
            filled = end
        if spec.dtype == "i1":  # a byte that is neither 0 nor 1 is no bool to XLA
            np.minimum(data, 1, out=data)
        yield index, data.view(DTYPES[spec.dtype]).reshape(spec.shape)


def _room_for(index: int, spec: Spec) -> np.ndarray:
    """Bytes to fill; the system gives them memory as they are filled."""
    try:
        return np.empty(spec.bytes_, np.uint8)
    except (MemoryError, ValueError):
        raise StateError(
            f"tensor {index}, {spec}, of {spec.bytes_} bytes, has no room here"
        ) from None


def whole(array: np.ndarray | jax.Array) -> np.ndarray:
    """One tensor in host memory, put together shard by shard.

    `np.asarray` of the whole would be kept by JAX as long as the array lives.
    """
    if isinstance(array, np.ndarray):
        return array
    shards = array.addressable_shards
    if array.is_fully_replicated:
        only: np.ndarray = np.asarray(shards[0].data)
        return only
    result: np.ndarray = np.empty(array.shape, array.dtype)
    for shard in shards:
        if shard.replica_id == 0:
            result[shard.index] = np.asarray(shard.data)
    return result
