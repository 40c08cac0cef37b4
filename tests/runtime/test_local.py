"""Executables: what runs on many devices equals one, stays put, and is consumed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.errors import ClusterError, ProgramError
from tepdist.frontends.jax import trace
from tepdist.lowering.compiled import bytes_by_kind
from tepdist.plans.types import Options
from tepdist.runtime.local import Executable
from tepdist.sharding import Mesh

SHAPE = (32, 32)
MATRIX = jax.ShapeDtypeStruct(SHAPE, jnp.float32)


def train(state, x):
    def loss(w):
        return jnp.mean((jnp.tanh(x @ w) - x) ** 2)

    value, gradient = jax.value_and_grad(loss)(state["w"])
    mean = 0.9 * state["m"] + 0.1 * gradient
    return {"w": state["w"] - mean, "m": mean}, value


def swap(state, x):
    return {"w": state["m"], "m": state["w"] + x}, jnp.sum(x)


def copy(state, x):
    new = state["m"] + x
    return {"w": new, "m": new}, jnp.sum(x)


def compiled(step, *, mesh="4", constraints=None, donate=True):
    traced = trace(step, ({"m": MATRIX, "w": MATRIX}, MATRIX), {}, donate=donate)
    grid = Mesh.parse(mesh)
    plan = compile_plan(
        traced.read(),
        traced.roles,
        parse_cluster(f"cpu:{grid.num_devices}"),
        options=Options(mesh=grid, constraints=constraints or {}),
    )
    return traced, Executable(plan)


def arrays(count=3):
    random = np.random.default_rng(0)
    return [random.normal(size=SHAPE).astype(np.float32) for _ in range(count)]


ROWS, COLUMNS = (("x",), ()), ((), ("x",))
LAYOUTS = [{}, {"w": ROWS}, {"w": ROWS, "m": COLUMNS}, {"x": COLUMNS, "w": ROWS}]


@pytest.mark.parametrize("constraints", LAYOUTS, ids=str)
@pytest.mark.parametrize("step", [train, swap, copy])
def test_steps_equal_one_device_and_state_goes_back_in(step, constraints):
    traced, executable = compiled(step, constraints=constraints)
    mean, weight, x = arrays()
    expected = {"m": mean, "w": weight}
    held = [executable.put(i, leaf) for i, leaf in enumerate((mean, weight))]
    for _ in range(3):
        expected, loss = jax.jit(step)(expected, x)
        state, got = traced.unflatten(executable([*held, executable.put(2, x)]))
        held = jax.tree.leaves(state)
        np.testing.assert_allclose(got, loss, rtol=1e-4)
    for name, leaf in expected.items():
        np.testing.assert_allclose(state[name], leaf, rtol=1e-4, atol=1e-6)
    for index, leaf in enumerate(held):
        assert leaf.sharding.is_equivalent_to(
            executable.argument_shardings[index], leaf.ndim
        )


def test_donated_state_is_consumed_and_the_batch_is_not():
    _, executable = compiled(train)
    sent = [executable.put(i, array) for i, array in enumerate(arrays())]
    executable(sent)
    assert [array.is_deleted() for array in sent] == [True, True, False]


def test_state_that_is_not_donated_survives():
    _, executable = compiled(train, donate=False)
    sent = [executable.put(i, array) for i, array in enumerate(arrays())]
    executable(sent)
    assert not any(array.is_deleted() for array in sent)


def test_a_step_returns_before_it_is_done_and_hands_out_what_is_stated():
    _, executable = compiled(train, mesh="2x2")
    sent = [executable.put(i, array) for i, array in enumerate(arrays())]
    results = executable(sent)
    for result, sharding in zip(results, executable.result_shardings, strict=True):
        assert result.sharding.is_equivalent_to(sharding, result.ndim)


def test_what_is_put_is_cut_as_planned():
    _, executable = compiled(train, constraints={"w": ROWS})
    (_, weight, _) = arrays()
    placed = executable.put(1, weight)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(8, 32)}
    np.testing.assert_array_equal(placed, weight)


def test_a_host_array_of_another_dtype_is_converted():
    _, executable = compiled(train)
    placed = executable.put(0, np.ones(SHAPE, np.float64))
    assert placed.dtype == np.float32


@pytest.mark.parametrize("dtype", ["int4", "uint4", "float4_e2m1fn"])
@pytest.mark.parametrize("donate", [True, False])
def test_arguments_below_a_byte(dtype, donate):
    given = (np.arange(32).reshape(8, 4) % 2).astype(dtype)
    leaf = jax.ShapeDtypeStruct(given.shape, given.dtype)
    executable = compiled_for(leaf, donate=donate)
    state, x = executable.put(0, given), np.zeros(SHAPE, np.float32)
    for _ in range(2):
        state, total = executable([state, x])
        assert total == 16
    assert (np.asarray(state) == given).all()


def test_two_bits_on_several_cpu_devices_are_refused():
    with pytest.raises(ProgramError, match="state is of i2"):
        compiled_for(jax.ShapeDtypeStruct((8, 4), jnp.int2))


def compiled_for(leaf, *, donate=True):
    def step(state, x):
        return state, jnp.sum(state.astype(jnp.float32)) + jnp.sum(x)

    traced = trace(step, (leaf, MATRIX), {}, donate=donate)
    plan = compile_plan(
        traced.read(),
        traced.roles,
        parse_cluster("cpu:4"),
        options=Options(mesh=Mesh.parse("4"), constraints={"state": ROWS}),
    )
    return Executable(plan)


def test_the_compiled_program_has_the_collectives_that_were_priced():
    _, executable = compiled(train, constraints={"w": ROWS, "m": ROWS, "x": ROWS})
    (text,) = executable.hlo_text()
    (stage,) = executable.plan.stages
    priced: dict[str, int] = {}
    for found in stage.collectives:
        total = priced.get(found.kind, 0)
        priced[found.kind] = total + found.bytes_ * found.count
    assert bytes_by_kind(text) == priced


def test_too_few_devices_are_refused():
    with pytest.raises(ClusterError) as refusal:
        compiled(train, mesh="16")
    assert refusal.value.problem == "the plan needs 16 devices; there are 8"
    assert refusal.value.hint is not None


def test_the_compiler_says_what_it_allocates():
    _, executable = compiled(train)
    peak = executable.peak_bytes()
    assert peak is not None
    assert peak > 0
