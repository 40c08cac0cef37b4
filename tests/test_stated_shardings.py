"""What a program states about its own placement is honoured, run and priced.

The oracle is the same function under plain ``jax.jit`` on the same devices.
"""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import tepdist
from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.cost.compute import model_flops
from tepdist.errors import OptionsError, ProgramError
from tepdist.frontends import files
from tepdist.lowering.compiled import bytes_by_kind
from tepdist.plans.types import Options
from tepdist.program.graph import CONSTRAINT
from tepdist.sharding import Mesh

ANY = P.UNCONSTRAINED


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


def train(loss):
    """A step of gradient descent on a loss of weights and batch."""

    def step(state, x):
        value, gradient = jax.value_and_grad(loss)(state["w"], x)
        return {"w": state["w"] - 0.1 * gradient}, value

    return step


def inputs():
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(16, 32)), rng.normal(size=(8, 16))
    return {"w": w.astype(np.float32)}, x.astype(np.float32)


def constrained(mesh, *specs):
    """A loss whose activation goes through these shardings."""

    def loss(w, x):
        h = x @ w
        for spec in specs:
            h = lax.with_sharding_constraint(jnp.tanh(h), NamedSharding(mesh, spec))
        return jnp.mean(h**2)

    return loss


def manual(mesh, body, ins, outs, **options):
    """A loss whose activation goes through a manual computation."""

    def loss(w, x):
        inside = jax.shard_map(
            body, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False, **options
        )
        return jnp.mean(jnp.sin(inside(x @ w)) ** 2)

    return loss


def every_collective(h):
    h = lax.all_gather(h, "b", axis=1, tiled=True)
    h = lax.psum_scatter(h, "b", scatter_dimension=1, tiled=True)
    h = lax.ppermute(h, "a", [(0, 1), (1, 0)])
    h = lax.all_to_all(h, "b", 0, 1, tiled=True)
    return lax.fori_loop(0, 3, lambda _, c: 0.1 * lax.psum(c, ("a", "b")), h)


def in_a_loop(mesh):
    def turn(h, _):
        around = [(i, (i + 1) % 4) for i in range(4)]
        move = jax.shard_map(
            lambda c: lax.ppermute(c, "b", around) * (1 + lax.axis_index("a")),
            mesh=mesh,
            in_specs=P("a", "b"),
            out_specs=P("a", "b"),
        )
        sharding = NamedSharding(mesh, P("a", "b"))
        return lax.with_sharding_constraint(jnp.sin(move(h)), sharding), None

    return lambda w, x: jnp.mean(lax.scan(turn, x @ w, None, length=3)[0])


def of_an_inner_jit(mesh):
    inner = jax.jit(
        lambda w, x: x @ w,
        in_shardings=(NamedSharding(mesh, P(None, "b")), NamedSharding(mesh, P("a"))),
        out_shardings=NamedSharding(mesh, P("a", "b")),
    )
    return lambda w, x: jnp.mean(inner(w, x) ** 2)


LOSSES = {
    "closed": lambda m: constrained(m, P("a", "b")),
    "whole": lambda m: constrained(m, P()),
    "open": lambda m: constrained(m, P("b", ANY)),
    "one after another": lambda m: constrained(m, P(("b", "a"), None), P(None, "a")),
    "inner jit": of_an_inner_jit,
    "manual": lambda m: manual(
        m, lambda h: lax.psum(jnp.tanh(h), "b"), P("a", "b"), P("a", None)
    ),
    "partly manual": lambda m: manual(
        m,
        lambda h: lax.psum((1 + lax.axis_index("b")) * (h @ h.T), "b"),
        P(None, "b"),
        P(),
        axis_names={"b"},
    ),
    "every collective": lambda m: manual(
        m, every_collective, P("a", "b"), P(("a", "b"), None)
    ),
    "in a loop": in_a_loop,
    "axes of one": lambda m: manual(
        jax.make_mesh((8, 1), ("a", "b"), axis_types=(AxisType.Auto,) * 2),
        lambda h: lax.psum(h, "b") + lax.psum(jnp.sin(h), "a"),
        P("a", "b"),
        P("a", "b"),
    ),
    "products that are added": lambda m: manual(
        m,
        lambda h: lax.psum(h @ h.T + (2 * h) @ jnp.sin(h).T, "b"),
        P("a", "b"),
        P("a"),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_it_runs_as_under_plain_jit_and_is_priced_as_it_is_compiled(name, mesh):
    fn = train(LOSSES[name](mesh))
    step = tepdist.parallelize(fn, cluster="cpu:8", donate=False)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(
            ours, theirs, rtol=1e-4, atol=1e-6
        ),
        step(*inputs()),
        jax.jit(fn)(*inputs()),
    )
    (stage,) = step.plan.stages
    priced = Counter()
    for collective in stage.collectives:
        priced[collective.kind] += collective.bytes_ * collective.count
    assert priced == bytes_by_kind(step.hlo_text()[0])


def test_constrained_values_lie_as_stated(mesh):
    loss = constrained(mesh, P("a", "b"), P(None, "b"), P("b", ANY))
    plan = tepdist.plan(loss, *inputs()[0].values(), inputs()[1], cluster="cpu:8")
    lie = [
        plan.stages[0].values[op.results[0]].dims
        for op in plan.program.ops
        if op.kind == CONSTRAINT
    ]
    assert lie[:2] == [(("a",), ("b",)), ((), ("b",))]
    assert lie[2][0] == ("b",)


def test_arguments_of_a_file_lie_as_stated(tmp_path, mesh):
    by_rows = NamedSharding(mesh, P("a"))
    lowered = jax.jit(
        lambda w, x: (w + 1, x @ w), in_shardings=(by_rows, NamedSharding(mesh, P()))
    ).lower(*inputs()[0].values(), inputs()[1])
    file = tmp_path / "step.mlir"
    file.write_text(lowered.as_text())
    plan = compile_file(file)
    stage = plan.stages[0]
    assert [stage.values[value].dims for value in plan.program.arguments] == [
        (("a",), ()),
        ((), ()),
    ]


def compile_file(file):
    program, roles = files.load(file)
    return compile_plan(program, roles, parse_cluster("cpu:8"), options=Options())


def test_a_saved_plan_keeps_what_was_stated(tmp_path, mesh):
    loss = LOSSES["manual"](mesh)
    plan = tepdist.plan(loss, *inputs()[0].values(), inputs()[1], cluster="cpu:8")
    plan.save(tmp_path / "plan.json")
    assert tepdist.Plan.load(tmp_path / "plan.json") == plan


def test_flops_in_a_manual_computation_count_on_all_shards(mesh):
    specs = (P("a", "b"), P("b", None))
    inside = jax.shard_map(
        lambda x, w: lax.psum(x @ w, "b"), mesh=mesh, in_specs=specs, out_specs=P("a")
    )
    state, x = inputs()
    plans = [
        tepdist.plan(fn, x, state["w"], cluster="cpu:8")
        for fn in (inside, lambda x, w: x @ w)
    ]
    stated, plain = (model_flops(plan.program) for plan in plans)
    assert stated == plain == 2 * 8 * 16 * 32


def test_what_a_manual_computation_holds_counts_as_memory(mesh):
    def body(h):
        wide = jnp.tanh(jnp.tile(h, (1, 1024)))
        return h + jnp.sum(wide @ wide.T)

    loss = manual(mesh, body, P("a", "b"), P("a", "b"))
    plan = tepdist.plan(loss, *inputs()[0].values(), inputs()[1], cluster="cpu:8")
    wide_bytes = 4 * 8 * 1024 * 4
    assert wide_bytes < plan.stages[0].memory.peak < 4 * wide_bytes


def test_another_number_of_devices_is_refused(mesh):
    loss = constrained(mesh, P("a", "b"))
    with pytest.raises(ProgramError, match=r"mesh of 8 devices \(a=2,b=4\)") as error:
        tepdist.plan(loss, *inputs()[0].values(), inputs()[1], cluster="cpu:4")
    assert error.value.hint


def test_another_mesh_is_refused(mesh):
    arguments = (*inputs()[0].values(), inputs()[1])
    loss = constrained(mesh, P("a", "b"))
    same = tepdist.plan(loss, *arguments, cluster="cpu:8", mesh="2x4")
    assert same.stages[0].mesh == Mesh((("a", 2), ("b", 4)))
    for other in ("4x2", "b=2,a=4"):
        with pytest.raises(OptionsError, match="not the mesh that the program states"):
            tepdist.plan(loss, *arguments, cluster="cpu:8", mesh=other)


def test_arrays_on_a_mesh_with_explicit_axes_stay_where_they_are():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    fn = train(lambda w, x: jnp.mean(jnp.tanh(x @ w) ** 2))
    state, x = inputs()
    placed = jax.device_put(
        (state, x),
        ({"w": NamedSharding(mesh, P(None, "b"))}, NamedSharding(mesh, P("a"))),
    )
    step = tepdist.parallelize(fn, cluster="cpu:8", donate=False)
    first, loss = step(*placed)
    np.testing.assert_allclose(loss, jax.jit(fn)(state, x)[1], rtol=1e-5)
    step(first, placed[1])
    (stage,) = step.plan.stages
    assert [stage.values[value].dims for value in step.plan.program.arguments] == [
        ((), ("b",)),
        (("a",), ()),
    ]
