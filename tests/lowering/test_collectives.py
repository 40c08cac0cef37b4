"""What the compiler makes of a few ops that it treats in ways of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import trace
from tepdist.lowering.compiled import bytes_by_kind, compiled_collectives
from tepdist.plans.types import Options, Plan
from tepdist.runtime.compiled import jitted_program, placed_structs
from tepdist.runtime.local import Executable, named_sharding
from tepdist.sharding import Mesh

F32 = jnp.float32


def planned(fn, *shapes, constraints, mesh="2x4") -> tuple[Plan, str]:
    args = [jax.ShapeDtypeStruct(shape, F32) for shape in shapes]
    traced = trace(fn, args, {}, state_argnums=())
    options = Options(mesh=Mesh.parse(mesh), constraints=constraints)
    cluster = parse_cluster(f"cpu:{options.mesh.num_devices}")
    plan = compile_plan(traced.read(), traced.roles, cluster, options=options)
    (text,) = Executable(plan).hlo_text()
    return plan, text


def priced_by_kind(plan: Plan) -> dict[str, int]:
    totals: dict[str, int] = {}
    for collective in plan.stages[0].collectives:
        total = totals.get(collective.kind, 0)
        totals[collective.kind] = total + collective.bytes_ * collective.count
    return totals


def blocked_of(fn, kind, *shapes) -> list[bool]:
    """Whether each factor of the first op of a kind may not be sharded."""
    args = [jax.ShapeDtypeStruct(shape, F32) for shape in shapes]
    program = trace(fn, args, {}).read()
    rule = next(op.rule for op in program.ops if op.kind == f"stablehlo.{kind}")
    return [factor in rule.blocked for factor in range(len(rule.sizes))]


def convolve(x, kernel, groups):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=numbers,
        feature_group_count=groups,
    )


def test_what_a_loop_reads_from_outside_is_resharded_before_it():
    def fn(weight, x):
        return lax.fori_loop(0, 5, lambda _, c: jnp.tanh(c @ weight), x)

    constraints = {"weight": (("x",), ()), "x": (("y",), ())}
    plan, text = planned(fn, (16, 16), (8, 16), constraints=constraints)
    gathered = [c for c in compiled_collectives(text) if c.kind == "all_gather"]
    assert [(c.bytes_, c.count) for c in gathered] == [(16 * 16 * 4, 1)]
    priced = [(c.bytes_, c.count) for c in plan.stages[0].collectives]
    assert priced == [(16 * 16 * 4, 1)]


def test_no_compiler_need_move_a_gather_out_of_a_loop():
    def fn(weight, x):
        return lax.fori_loop(0, 5, lambda _, c: jnp.tanh(c @ weight), x)

    constraints = {"weight": (("x",), ()), "x": (("y",), ())}
    plan, _ = planned(fn, (16, 16), (8, 16), constraints=constraints)
    program, (stage,) = plan.program, plan.stages
    devices = np.array(jax.devices()[: stage.mesh.num_devices])
    mesh = jax.sharding.Mesh(devices.reshape(stage.mesh.shape), stage.mesh.names)
    given = [named_sharding(mesh, stage.values[v]) for v in program.arguments]
    jitted = jitted_program(
        program,
        stage,
        argument_shardings=given,
        result_shardings=[named_sharding(mesh, each) for each in stage.results],
        donated=[],
    )
    lowered = jitted.lower(*placed_structs(program, given))
    compiled = lowered.compile(
        {"xla_disable_hlo_passes": "while-loop-invariant-code-motion"}
    )
    assert bytes_by_kind(compiled.as_text()) == {"all_gather": 16 * 16 * 4}


def test_what_a_loop_carries_is_priced_on_each_turn():
    def fn(weight, x):
        return lax.fori_loop(0, 5, lambda _, c: jnp.tanh(c @ weight), x)

    constraints = {"weight": ((), ("x",)), "x": ((), ("x",))}
    plan, text = planned(fn, (512, 512), (8, 512), constraints=constraints, mesh="4")
    assert priced_by_kind(plan) == bytes_by_kind(text)
    assert any(collective.count == 5 for collective in plan.stages[0].collectives)


def test_sums_over_two_contracted_dims_are_two_all_reduces():
    def fn(x, y):
        return jnp.einsum("bsi,bsj->ij", x, y)

    lies = (("x",), ("y",), ())
    plan, text = planned(
        fn, (8, 256, 16), (8, 256, 16), constraints={"x": lies, "y": lies}
    )
    assert bytes_by_kind(text) == {"all_reduce": 2 * 16 * 16 * 4}
    axes = [collective.mesh_axes for collective in plan.stages[0].collectives]
    assert sorted(axes) == [("x",), ("y",)]


def test_what_a_product_read_before_still_goes_by_all_to_all():
    """On two axes, one unused: the partitioner has its sharding in two notations."""

    def fn(x, y, z):
        return jnp.einsum("btd,bthk->dhk", x, -y), -y + z

    last = ((), (), ("x",), ())
    first = (("x",), (), (), ())
    shapes = (8, 12, 16), (8, 12, 2, 8), (8, 12, 2, 8)
    whole = ((), (), ())
    constraints = {"x": whole, "y": last, "negate.*": last, "z": first, "add.*": first}
    plan, text = planned(fn, *shapes, constraints=constraints, mesh="2x3")
    assert bytes_by_kind(text) == priced_by_kind(plan)
    assert "all_to_all" in priced_by_kind(plan)


def test_what_is_made_from_nothing_moves_nothing():
    def fn(weight, none):
        return none.T @ none + jnp.sin(weight), jnp.sum(none, 0)

    constraints = {"weight": (("x",), ()), "none": ((), ("x",))}
    plan, text = planned(fn, (8, 8), (0, 8), constraints=constraints, mesh="4")
    assert bytes_by_kind(text) == priced_by_kind(plan) == {}
    assert plan.search.cost_s == pytest.approx(plan.predicted.step_time_s)


def test_a_result_that_is_only_a_broadcast_is_priced():
    def fn(x):
        made = jnp.sin(x)
        return made, jnp.broadcast_to(made, (8, 16))

    plan, text = planned(fn, (16,), constraints={"x": (("x",),)}, mesh="4")
    assert bytes_by_kind(text) == priced_by_kind(plan)


def test_a_reshape_without_a_common_cut_shards_neither_side():
    blocked = blocked_of(lambda x: x.reshape(4, 6), "reshape", (3, 8))
    sizes_of_operand = 3
    assert sum(blocked) >= sizes_of_operand - 1


def test_convolutions_shard_rows_and_no_group():
    shapes = (8, 8, 8, 8), (3, 3, 4, 16)
    assert all(blocked_of(lambda x, k: convolve(x, k, 2), "convolution", *shapes))

    def slope(x, kernel):
        return jax.grad(lambda k: convolve(x, k, 2).sum())(kernel)

    assert all(blocked_of(slope, "convolution", *shapes))
    shapes = (8, 8, 8, 8), (3, 3, 8, 16)
    free = [
        not blocked
        for blocked in blocked_of(
            lambda x, k: convolve(x, k, 1), "convolution", *shapes
        )
    ]
    assert sum(free) == 5  # batch, channels in, channels out, rows, columns


def test_the_gradient_of_a_grouped_kernel_is_right_on_two_axes():
    """The compiler sums it over all devices, if it is sharded over some of them."""

    def fn(x, kernel):
        return jax.grad(lambda k: (convolve(x, k, 2) ** 2).sum())(kernel)

    rng = np.random.default_rng(0)
    args = [
        rng.normal(size=shape).astype(np.float32)
        for shape in ((8, 4, 4, 8), (3, 3, 4, 16))
    ]
    traced = trace(fn, args, {}, state_argnums=())
    options = Options(mesh=Mesh.parse("2x4"), constraints={"x": (("x",), (), (), ())})
    cluster = parse_cluster("cpu:8")
    plan = compile_plan(traced.read(), traced.roles, cluster, options=options)
    executable = Executable(plan)
    (got,) = executable([executable.put(i, x) for i, x in enumerate(args)])
    wanted = np.asarray(jax.jit(fn)(*args))
    np.testing.assert_allclose(
        np.asarray(got), wanted, atol=1e-4 * np.abs(wanted).max()
    )
