"""The JAX frontend: what a traced program computes, and what its parts are called."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from tepdist.errors import OptionsError, ProgramError
from tepdist.frontends.jax import trace
from tepdist.program.roles import Role

_run = Primitive("run_module")
_run.multiple_results = True
_run.def_abstract_eval(
    lambda *_, module, out: [jax.core.ShapedArray(s, d) for s, d in out]
)


def _lower(ctx, *arguments, module, out):
    parsed = ir.Module.parse(module)
    (main,) = (op for op in parsed.body.operations if isinstance(op, func.FuncOp))
    types = list(main.type.results)
    name = mlir.merge_mlir_modules(
        ctx.module_context.module,
        "traced",
        parsed,
        dst_symtab=ctx.module_context.symbol_table,
    )
    return func.CallOp(types, ir.FlatSymbolRefAttr.get(name), list(arguments)).results


mlir.register_lowering(_run, _lower)


def run(traced, *args, **kwargs):
    """Runs the normalised program on one device, from trees to trees."""
    program = traced.read()
    out = tuple((leaf.flat_shape, leaf.flat_dtype) for leaf in traced.results)
    flat = [
        jnp.asarray(value, leaf.flat_dtype)
        for value, leaf in zip(
            traced.flatten(args, kwargs), traced.call.leaves, strict=True
        )
    ]
    results = jax.jit(lambda *a: _run.bind(*a, module=program.module, out=out))(*flat)
    return traced.unflatten(results)


def host(tree):
    """Numpy arrays; typed keys as their data."""

    def one(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return np.asarray(jax.random.key_data(leaf))
        return np.asarray(leaf)

    return jax.tree.map(one, tree)


def assert_same(fn, *args, **kwargs):
    """Traces the call and compares what the program computes with the function."""
    traced = trace(fn, args, kwargs)
    got, wanted = run(traced, *args, **kwargs), fn(*args, **kwargs)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        host(got),
        jax.tree.map(lambda leaf: host(jnp.asarray(leaf)), wanted),
    )
    return traced


def argument(traced, name):
    (found,) = (role for role in traced.roles.arguments if role.name == name)
    return found


def names(roles):
    return [role.name for role in roles]


class Train(NamedTuple):
    params: dict
    opt: tuple
    key: jax.Array
    count: jax.Array


def dropout_step(state, batch):
    key, drop = jax.random.split(state.key)

    def loss_fn(params):
        hidden = jax.nn.relu(batch["x"] @ params["w"][0]) @ params["w"][1]
        kept = jax.random.bernoulli(drop, 0.9, hidden.shape)
        return jnp.mean((jnp.where(kept, hidden, 0.0) - batch["y"]) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    updates, opt = optax.adam(1e-2).update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, updates)
    return Train(params, opt, key, state.count + 1), {"loss": loss, "rows": 4}


def train_state(impl=None):
    key = jax.random.key(7, impl=impl)
    first, second, rest = jax.random.split(key, 3)
    params = {
        "w": [jax.random.normal(first, (8, 16)), jax.random.normal(second, (16, 2))]
    }
    return Train(params, optax.adam(1e-2).init(params), rest, jnp.int32(0))


BATCH = {"x": np.ones((4, 8), np.float32), "y": np.zeros((4, 2), np.float32)}


def step_sgd(state, x, scale):
    grads = jax.grad(lambda w: jnp.sum((x @ w) ** 2))(state)
    return state - scale * grads, jnp.sum(state)


def test_a_training_step_with_optax_and_typed_keys():
    traced = assert_same(dropout_step, train_state(), BATCH)
    state_names = [
        "params/w/0",
        "params/w/1",
        "opt/0/count",
        "opt/0/mu/w/0",
        "opt/0/mu/w/1",
        "opt/0/nu/w/0",
        "opt/0/nu/w/1",
        "key",
        "count",
    ]
    assert names(traced.roles.arguments) == [*state_names, "batch/x", "batch/y"]
    assert names(traced.roles.results) == [*state_names, "loss", "rows"]
    for name in state_names:
        role = argument(traced, name)
        assert role.role is Role.STATE
        assert role.donated
    assert argument(traced, "batch/x").role is Role.BATCH
    assert argument(traced, "batch/x").batch_dim == 0
    assert [role.name for role in traced.roles.results if role.is_loss] == ["loss"]
    assert all(role.replaces == role.name for role in traced.roles.results[:9])


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_come_back_with_their_implementation(impl):
    traced = trace(dropout_step, (train_state(impl), BATCH), {})
    state, _ = run(traced, train_state(impl), BATCH)
    assert str(jax.random.key_impl(state.key)) == impl


def test_arrays_of_keys_and_old_keys_are_constants():
    def sample(state, key, keys, old):
        numbers = jax.vmap(jax.random.normal)(keys)
        old_number = jax.random.normal(old)
        return state + jax.random.normal(key) + numbers.sum() + old_number

    keys = jax.random.split(jax.random.key(1), 5)
    args = (jnp.ones(3), jax.random.key(0), keys, jax.random.PRNGKey(2))
    traced = assert_same(sample, *args)
    roles = [role.role for role in traced.roles.arguments]
    assert roles == [Role.STATE, *[Role.CONSTANT] * 3]


def test_a_program_from_abstract_shapes_is_that_from_arrays():
    state, batch = train_state(), BATCH
    shapes = jax.eval_shape(lambda: (state, batch))
    real, abstract = (
        trace(dropout_step, (state, batch), {}),
        trace(dropout_step, shapes, {}),
    )
    assert real.roles == abstract.roles
    assert real.read().module == abstract.read().module


@pytest.mark.parametrize("dtype", ["int8", "uint32", "bool", "bfloat16", "float16"])
def test_leaves_of_other_dtypes(dtype):
    def step(state, x):
        return {"a": jnp.maximum(state["a"], x), "none": None}, x.astype(float).sum()

    value = jnp.ones((4, 2), dtype)
    traced = assert_same(step, {"a": value * 0, "none": None}, value)
    assert names(traced.roles.arguments) == ["a", "x"]


def test_numbers_are_weak_constants_as_under_jit():
    def scaled(state, x, scale, *, offset):
        return state * scale + offset, x

    state = jnp.ones(4, jnp.bfloat16)
    traced = assert_same(scaled, state, np.ones((2, 3), np.float32), 2.0, offset=3)
    assert traced.results[0].dtype == jnp.bfloat16
    for name in ("scale", "offset"):
        assert argument(traced, name).role is Role.CONSTANT
        assert argument(traced, name).batch_dim is None


def test_a_number_in_the_state_is_state():
    def count(state, x):
        return {"n": state["n"] + 1, "w": state["w"] + x.sum()}

    traced = assert_same(count, {"n": 0, "w": jnp.ones(3)}, np.ones((2,), np.float32))
    assert [role.replaces for role in traced.roles.results] == ["n", "w"]


def test_static_arguments_by_position_and_by_name():
    def step(state, mode, x, *, power):
        assert mode == "up"
        return state + (x**power).sum()

    args, kwargs = (jnp.ones(2), "up", np.ones((3,), np.float32)), {"power": 2}
    traced = trace(step, args, kwargs, static_argnums=1, static_argnames=("power",))
    assert names(traced.roles.arguments) == ["state", "x"]
    left = (args[0], None, args[2])
    np.testing.assert_allclose(run(traced, *left, power=None), step(*args, **kwargs))
    other = trace(step, args, {"power": 3}, static_argnums=1, static_argnames="power")
    assert other.call != traced.call


def test_several_state_arguments_carry_their_names():
    def step(params, moments, x):
        return params + x.sum(), {"m": moments["m"] * 2}, {"loss": x.sum(), "x": x}

    args = (jnp.ones(3), {"m": jnp.ones(2)}, np.ones((4,), np.float32))
    traced = trace(step, args, {}, state_argnums=(0, 1))
    assert names(traced.roles.arguments) == ["params", "moments/m", "x"]
    assert [role.replaces for role in traced.roles.results] == [
        "params",
        "moments/m",
        None,
        None,
    ]
    assert names(traced.roles.results) == ["params", "moments/m", "loss", "x"]


def test_state_may_be_a_later_or_a_keyword_argument():
    def step(x, state):
        return state + x.sum()

    x, state = np.ones((4,), np.float32), jnp.ones(3)
    for call in (((x, state), {}), ((x,), {"state": state})):
        traced = trace(step, *call, state_argnums=1)
        assert argument(traced, "state").role is Role.STATE
        assert argument(traced, "x").role is Role.BATCH
        assert traced.roles.results[0].replaces == "state"


def test_stated_batch_arguments_leave_the_rest_constant():
    traced = trace(
        lambda state, table, x, rate: state + rate * (table + x).sum(),
        (jnp.ones(3), np.ones((5,), np.float32), np.ones((5,), np.float32), 0.1),
        {},
        batch_argnums=2,
    )
    assert [role.role for role in traced.roles.arguments] == [
        Role.STATE,
        Role.CONSTANT,
        Role.BATCH,
        Role.CONSTANT,
    ]


def test_an_evaluation_neither_replaces_nor_donates():
    traced = trace(
        lambda params, x: (x @ params).mean(),
        (jnp.ones((3, 2)), np.ones((4, 3), np.float32)),
        {},
    )
    assert not argument(traced, "params").donated
    (loss,) = traced.roles.results
    assert loss.is_loss
    assert loss.name == "loss"


def test_donation_can_be_refused():
    args = (jnp.ones(3), np.ones((4,), np.float32), 0.1)
    step = lambda state, x, rate: state + rate * x.sum()  # noqa: E731
    assert argument(trace(step, args, {}), "state").donated
    assert not argument(trace(step, args, {}, donate=False), "state").donated


def test_a_result_of_another_dtype_replaces_nothing():
    traced = trace(lambda w, x: w.astype(jnp.bfloat16), (jnp.ones(3), jnp.ones(2)), {})
    assert traced.roles.results[0].replaces is None


def test_names_stay_unique():
    def step(state, batch):
        return {"batch": {"x": state["batch"]["x"] + batch["x"]}}, {"batch": {"x": 1.0}}

    leaf = jnp.ones(2)
    traced = trace(step, ({"batch": {"x": leaf}}, {"x": leaf}), {})
    assert names(traced.roles.arguments) == ["batch/x", "batch/x#2"]
    assert len(set(names(traced.roles.results))) == 2


def test_arguments_that_are_not_used_stay():
    traced = assert_same(
        lambda state, x, unused: state + x.sum(), jnp.ones(2), BATCH["x"], BATCH["y"]
    )
    program = traced.read()
    assert [program.values[index].name for index in program.arguments] == [
        "state",
        "x",
        "unused",
    ]


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1, 1),))


def inner_loss(w, x):
    layer = jax.checkpoint(lambda h, w: (jnp.tanh(h @ w), None))
    h, _ = jax.lax.scan(layer, x, w)
    return clipped(jnp.sum(h**2))


@pytest.mark.parametrize(
    "fn",
    [
        jax.jit(lambda w, x: w - 0.1 * jax.grad(inner_loss)(w, x)),
        functools.partial(
            lambda rate, w, x: w - rate * jax.grad(inner_loss)(w, x), 0.1
        ),
    ],
    ids=["jit", "partial"],
)
def test_jit_partial_custom_vjp_remat_and_scan(fn):
    w = jax.random.normal(jax.random.key(0), (3, 4, 4))
    traced = assert_same(fn, w, np.ones((2, 4), np.float32))
    assert traced.roles.results[0].replaces == "w"


def test_a_callable_object_and_variadic_arguments():
    class Step:
        def __call__(self, state, *arrays, **more):
            return state + sum(a.sum() for a in arrays) + more["extra"].sum()

    x = np.ones((2,), np.float32)
    traced = assert_same(Step(), jnp.ones(3), x, x, extra=x)
    assert names(traced.roles.arguments) == ["state", "arg1", "arg2", "extra"]


def print_step(state, x):
    jax.debug.print("{}", x)
    return state + x.sum()


def callback_step(state, x):
    return state + jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), x.dtype), x.sum())


@pytest.mark.parametrize("fn", [print_step, callback_step])
def test_side_effects_are_refused_by_name(fn):
    with pytest.raises(ProgramError) as error:
        trace(fn, (jnp.ones(2), BATCH["x"]), {}).read()
    assert fn.__name__ in str(error.value)
    assert "callbacks" in error.value.hint


def choose(state, flag):
    return state if flag else -state


@pytest.mark.parametrize(
    "fn",
    [
        choose,
        jax.jit(choose, static_argnums=1),
        lambda state, flag: jax.jit(choose, static_argnames="flag")(state, flag=flag),
        lambda state, flag: state * np.asarray(flag),
        lambda state, flag: state * len(range(int(flag))),
        lambda state, flag: state[jnp.arange(2) > flag],
    ],
)
def test_a_value_that_tracing_needs_is_asked_for_as_static(fn):
    with pytest.raises(ProgramError, match="needs the value of an argument") as error:
        trace(fn, (jnp.ones(2), True), {})
    assert "static_argnums" in error.value.hint
    assert __file__ in error.value.where
    assert "\n" not in error.value.problem


def test_a_jitted_function_takes_the_static_arguments_that_are_stated():
    jitted = jax.jit(choose, static_argnums=1)
    traced = trace(jitted, (jnp.ones(2), False), {}, static_argnums=1)
    assert traced.call.statics == ((1, False),)


def test_the_functions_own_value_error_passes():
    def broken(state):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        trace(broken, (jnp.ones(2),), {})


@pytest.mark.parametrize(
    ("kwargs", "error", "problem"),
    [
        ({}, ProgramError, "argument 'mode' is a str"),
        ({"state_argnums": 5}, OptionsError, "state_argnums has 5"),
        ({"batch_argnums": (1, -7)}, OptionsError, "batch_argnums has -7"),
        ({"static_argnums": (0, 1)}, OptionsError, "static argument 0 is a"),
    ],
)
def test_a_wrong_call_is_named(kwargs, error, problem):
    with pytest.raises(error) as raised:
        trace(lambda state, mode: state, (jnp.ones(2), "fast"), {}, **kwargs)
    assert problem in raised.value.problem
    assert raised.value.hint
