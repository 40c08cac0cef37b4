"""Tensors on the wire: what is cut into chunks comes together again."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from tepdist.errors import SessionError, StateError
from tepdist.lowering.dtypes import DTYPES
from tepdist.service import tensors
from tepdist.service.protocol import tepdist_pb2 as pb
from tepdist.service.tensors import Spec, assemble, chunks_of, whole

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def made_up(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return (
        (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(DTYPES[dtype])
    )


@given(st.sampled_from(sorted(DTYPES)), shapes)
def test_a_tensor_of_any_dtype_survives_the_wire(dtype, shape):
    array = made_up(dtype, shape)
    spec = Spec.from_proto(Spec.of(array).to_proto())
    assert spec == Spec(dtype, shape)
    ((index, back),) = assemble([(3, spec)], chunks_of(3, array))
    assert index == 3
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


def test_a_large_tensor_travels_in_several_chunks_in_order():
    array = np.arange(3 * tensors.MAX_CHUNK_BYTES // 8 + 5)
    chunks = list(chunks_of(0, array))
    assert [len(chunk.data) for chunk in chunks[:-1]] == [tensors.MAX_CHUNK_BYTES] * 3
    ((_, back),) = assemble([(0, Spec.of(array))], iter(chunks))
    np.testing.assert_array_equal(back, array)


def test_several_tensors_share_a_stream():
    arrays = [made_up("f32", (2, 3)), made_up("f32", (0,)), made_up("bf16", ())]
    chunks = (chunk for i, array in enumerate(arrays) for chunk in chunks_of(i, array))
    specs = [(index, Spec.of(array)) for index, array in enumerate(arrays)]
    for (_, back), array in zip(assemble(specs, chunks), arrays, strict=True):
        np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("chunks", "text"),
    [
        ([], "ended after 0 of 8 bytes"),
        ([(0, b"1234")], "ended after 4 of 8 bytes"),
        ([(0, b"123456789")], "9 bytes of tensor 0 came where tensor 0 has 8 to go"),
        ([(1, b"12345678")], "tensor 1 came where tensor 0 has 8 to go"),
        ([(0, b"")], "0 bytes of tensor 0"),
    ],
)
def test_chunks_that_do_not_make_the_tensor_are_refused(chunks, text):
    messages = (pb.TensorChunk(index=index, data=data) for index, data in chunks)
    with pytest.raises(SessionError, match=text):
        list(assemble([(0, Spec("f32", (2,)))], messages))


def test_a_tensor_that_claims_to_be_larger_than_memory_is_refused():
    spec = Spec("f32", (2**40, 2**20))
    with pytest.raises(StateError, match="has no room here"):
        list(assemble([(0, spec)], iter([pb.TensorChunk(index=0, data=b"1234")])))


def test_a_byte_that_is_no_bool_arrives_as_true():
    chunk = pb.TensorChunk(index=0, data=b"\x00\x01\x02\xff")
    ((_, back),) = assemble([(0, Spec("i1", (4,)))], iter([chunk]))
    assert back.view(np.uint8).tolist() == [0, 1, 1, 1]


def test_an_unknown_dtype_is_refused_by_name():
    with pytest.raises(StateError, match="'float32'"):
        Spec.from_proto(pb.TensorSpec(dtype="float32", shape=[1]))


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_texts_survive_the_wire(texts):
    assert tensors.join_texts(tensors.text_chunks(texts)) == texts


@pytest.mark.parametrize(
    "spec", [(), ("x",), (None, "x"), (("x", "y"),), ("y", "x"), (None, None)]
)
def test_a_sharded_array_comes_together(spec):
    mesh = jax.make_mesh((2, 4), ("x", "y"), devices=jax.devices()[:8])
    array = np.arange(64.0, dtype=np.float32).reshape(8, 8)
    sharded = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    np.testing.assert_array_equal(whole(sharded), array)
