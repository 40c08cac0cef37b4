"""Times of single kernels and collectives, on all given devices at once.

A program's time holds much beside what is asked for: dispatch, arguments, the wait at
the end. So two programs are timed that differ in how often they do the thing, right
after each other, and the difference is divided by that. All devices run it at the same
time, as they will in a training step: what they share (memory, a host's cores) is
shared in the measurement too.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tepdist.cost.fitting import TimedCollective, TimedKernel, TimedProduct
from tepdist.lowering.compiled import compiled_collectives

Run: TypeAlias = Callable[[], None]
Devices: TypeAlias = tuple[jax.Device, ...]
Body: TypeAlias = Callable[[jax.Array, jax.Array, int], jax.Array]

FEW, MANY = 2, 12
LEAST_ROUNDS, MOST_ROUNDS = 7, 60
ENOUGH_S = 0.25  # after this long even short things have been run often enough
SHORTEST_S = 1e-9  # noise can make the difference of very short things negative
GROUPS, MEMBERS = "groups", "members"
EVERYWHERE = PartitionSpec((GROUPS, MEMBERS))
COLUMNS = 256
# JAX's name of a dtype to MLIR's.
DTYPES: Mapping[str, str] = MappingProxyType(
    {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "float64": "f64"}
)


def time_kernel(devices: Devices, elements: int) -> TimedKernel:
    """An elementwise kernel over f32 arrays of so many elements a device, in place.

    With a root and a division, as optimizers and norms have: on a CPU they take longer
    than the memory does.
    """

    def make(count: int) -> Run:
        held = [_placed(devices, (elements,), "float32") for _ in range(count)]
        step = _updates(devices, elements, count)

        def run() -> None:
            held[:] = step(*held)
            jax.block_until_ready(held)

        return run

    return TimedKernel(2.0 * 4 * elements, marginal_s(make))


def time_product(
    devices: Devices, extents: tuple[int, int, int], dtype: str
) -> TimedProduct:
    """A product of these rows, columns and contracted elements on every device.

    Two products of each layer of a network in training follow each other: ``y = x w``,
    then ``x = y w^T``. They count the same; compilers take them in different ways, so
    their mean is what is given. Each layer has weights of its own, not in a cache yet.
    """

    def make(count: int) -> Run:
        shapes = _layers(extents, count)
        held = [_placed(devices, shape, dtype) for shape in shapes]
        return _runner(_products(devices, extents, dtype, count=count), held)

    rows, columns, contracted = extents
    itemsize = jnp.dtype(dtype).itemsize
    elements = rows * contracted + contracted * columns + rows * columns
    seconds = marginal_s(make) / 2
    return TimedProduct(DTYPES[dtype], extents, float(itemsize * elements), seconds)


def _layers(extents: tuple[int, int, int], count: int) -> list[tuple[int, int]]:
    """Shapes of what goes in, and of each layer's weights."""
    rows, columns, contracted = extents
    return [(rows, contracted), *[(contracted, columns)] * count]


def time_collective(
    devices: Devices, kind: str, *, size: int, rows: int
) -> TimedCollective:
    """A collective over neighbours in groups of this size, all groups at once.

    What packs and unpacks its blocks counts with it, as do the kernel that makes its
    operand and the one that reads its result: a plan that needs it needs them too.

    Args:
        devices: All that take part.
        kind: A key of `BODIES`.
        size: Devices of a group.
        rows: Of f32 in the operand of each device, `COLUMNS` each; `size` divides it.
    """

    def make(count: int) -> Run:
        held = [_placed(devices, shape, "float32") for shape in ((rows, COLUMNS), ())]
        return _runner(_collectives(devices, kind, size, rows=rows, count=count), held)

    local = 4.0 * rows * COLUMNS
    payload = local * size if kind == "all_gather" else local
    return TimedCollective(kind, size, payload, marginal_s(make))


@cache  # each is timed more than once
def _updates(devices: Devices, elements: int, count: int) -> jax.stages.Compiled:
    def update(*arrays: jax.Array) -> list[jax.Array]:
        return [x - 0.001 * x / (jnp.sqrt(x * x) + 1) for x in arrays]

    held = [_struct(devices, (elements,), "float32")] * count
    jitted = jax.jit(update, donate_argnums=tuple(range(count)))
    return jitted.lower(*held).compile()


@cache
def _products(
    devices: Devices, extents: tuple[int, int, int], dtype: str, *, count: int
) -> jax.stages.Compiled:
    def chain(x: jax.Array, *weights: jax.Array) -> jax.Array:
        for w in weights:
            y = lax.dot(x, w)
            x = lax.dot_general(y, w, (((1,), (1,)), ((), ())))
        return x

    held = [_struct(devices, shape, dtype) for shape in _layers(extents, count)]
    return _on_each(_mesh(devices, len(devices)), chain).lower(*held).compile()


@cache
def _collectives(
    devices: Devices, kind: str, size: int, *, rows: int, count: int
) -> jax.stages.Compiled:
    def chain(array: jax.Array, own: jax.Array) -> jax.Array:
        for _ in range(count):
            array = BODIES[kind](array, own, size)
        return array

    held = [_struct(devices, shape, "float32") for shape in ((rows, COLUMNS), ())]
    return _on_each(_mesh(devices, size), chain).lower(*held).compile()


def combines(devices: Devices, bytes_: int) -> bool:
    """Whether the compiler makes one of two all-reduces of half so many bytes each."""
    mesh = _mesh(devices, len(devices))

    def both(first: jax.Array, second: jax.Array) -> list[jax.Array]:
        return [lax.psum(array, MEMBERS) for array in (first, second)]

    mapped = jax.shard_map(
        both, mesh=mesh, in_specs=EVERYWHERE, out_specs=PartitionSpec(), check_vma=False
    )
    struct = jax.ShapeDtypeStruct((mesh.size, bytes_ // 8), "float32")
    text = jax.jit(mapped).lower(struct, struct).compile().as_text() or ""
    return len(compiled_collectives(text)) == 1


def added_member_s(devices: Devices, rows: int) -> float:
    """Time of one more of several all-reduces that the compiler makes one of [s].

    Args:
        devices: All of one group.
        rows: Of f32 in the operand of each device, `COLUMNS` each.
    """

    def make(count: int) -> Run:
        shapes = [*[(rows, COLUMNS)] * count, ()]
        held = [_placed(devices, shape, "float32") for shape in shapes]
        return _runner(_together(devices, rows, count), held)

    return marginal_s(make)


@cache
def _together(devices: Devices, rows: int, count: int) -> jax.stages.Compiled:
    def sums(*arrays: jax.Array) -> jax.Array:
        *operands, own = arrays
        found = [_all_reduce(array, own, len(devices)) for array in operands]
        return jnp.concatenate(found)

    shapes = [*[(rows, COLUMNS)] * count, ()]
    held = [_struct(devices, shape, "float32") for shape in shapes]
    return _on_each(_mesh(devices, len(devices)), sums).lower(*held).compile()


def _all_reduce(array: jax.Array, own: jax.Array, size: int) -> jax.Array:
    total: jax.Array = lax.psum(array * own, MEMBERS)
    return total


def _all_gather(array: jax.Array, own: jax.Array, size: int) -> jax.Array:
    whole: jax.Array = lax.all_gather(array * own, MEMBERS, axis=1, tiled=True)
    # What reads it reads all of it: blocks that the columns are put together from.
    total: jax.Array = sum(jnp.split(whole, size, axis=1), start=jnp.zeros_like(array))
    return total


def _reduce_scatter(array: jax.Array, own: jax.Array, size: int) -> jax.Array:
    part = lax.psum_scatter(array * own, MEMBERS, scatter_dimension=0, tiled=True)
    return jnp.tile(part, (size, 1))


def _all_to_all(array: jax.Array, own: jax.Array, size: int) -> jax.Array:
    moved = lax.all_to_all(
        array * own, MEMBERS, split_axis=0, concat_axis=1, tiled=True
    )
    restored: jax.Array = moved.reshape(array.shape)
    return restored


def _permute(array: jax.Array, own: jax.Array, size: int) -> jax.Array:
    around = [(member, (member + 1) % size) for member in range(size)]
    passed: jax.Array = lax.ppermute(array * own, MEMBERS, around)
    return passed


BODIES: Mapping[str, Body] = MappingProxyType(
    {
        "all_reduce": _all_reduce,
        "all_gather": _all_gather,
        "reduce_scatter": _reduce_scatter,
        "all_to_all": _all_to_all,
        "collective_permute": _permute,
    }
)


def marginal_s(make: Callable[[int], Run]) -> float:
    """Time that doing a thing once more adds to a program [s].

    Args:
        make: Gives a compiled program that does the thing so many times, to be run.
    """
    few, many = make(FEW), make(MANY)
    few(), many()
    times: list[tuple[float, float]] = []
    begin_s = time.perf_counter()
    while len(times) < MOST_ROUNDS:
        times.append((_seconds(few), _seconds(many)))
        is_long = time.perf_counter() - begin_s > ENOUGH_S
        if is_long and len(times) >= LEAST_ROUNDS:
            break
    # Others' work on the machine only ever adds time.
    few_s, many_s = np.quantile(times, 0.25, axis=0).tolist()
    return max(float(many_s - few_s), SHORTEST_S) / (MANY - FEW)


def _seconds(run: Run) -> float:
    begin_s = time.perf_counter()
    run()
    return time.perf_counter() - begin_s


def _mesh(devices: Devices, size: int) -> Mesh:
    return Mesh(np.array(devices).reshape(-1, size), (GROUPS, MEMBERS))


def _struct(
    devices: Devices, local: tuple[int, ...], dtype: str
) -> jax.ShapeDtypeStruct:
    """An array of which each device holds so much, along a dim in front."""
    sharding = NamedSharding(_mesh(devices, len(devices)), EVERYWHERE)
    return jax.ShapeDtypeStruct((len(devices), *local), dtype, sharding=sharding)


def _placed(devices: Devices, local: tuple[int, ...], dtype: str) -> jax.Array:
    struct = _struct(devices, local, dtype)
    # Chains of products and sums overflow, which is as fast; small ones would not be.
    ones = np.ones(struct.shape, struct.dtype)
    array: jax.Array = jax.device_put(ones, struct.sharding)
    return array


def _on_each(mesh: Mesh, local: Callable[..., jax.Array]) -> jax.stages.Wrapped:
    """A function of what each device holds, over all devices."""

    def unstacked(*arrays: jax.Array) -> jax.Array:
        return local(*(array[0] for array in arrays))[None]

    return jax.jit(
        jax.shard_map(
            unstacked,
            mesh=mesh,
            in_specs=EVERYWHERE,
            out_specs=EVERYWHERE,
            check_vma=False,
        )
    )


def _runner(compiled: jax.stages.Compiled, held: Sequence[jax.Array]) -> Run:
    def run() -> None:
        jax.block_until_ready(compiled(*held))

    return run
