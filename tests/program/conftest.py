"""Programs of many kinds, and a way to run the bytes of a module."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from tepdist.program.sums import inline_sums

F32, I32, U32 = jnp.float32, jnp.int32, jnp.uint32


@dataclass(frozen=True)
class Source:
    """A JAX function and what it is lowered from.

    Attributes:
        name: Of the source.
        function: Its step.
        arguments: Shape and dtype of each argument.
        donated: Positions of donated arguments.
    """

    name: str
    function: Callable[..., object]
    arguments: tuple[jax.ShapeDtypeStruct, ...]
    donated: tuple[int, ...] = ()

    def lower(self) -> jax.stages.Lowered:
        step = jax.jit(self.function, donate_argnums=self.donated)
        return step.trace(*self.arguments).lower()

    def bytecode(self) -> bytes:
        return mlir.module_to_bytecode(self.lower().compiler_ir())

    def inputs(self) -> list[np.ndarray]:
        random = np.random.default_rng(0)
        return [_input(random, argument) for argument in self.arguments]


def _input(random: np.random.Generator, argument: jax.ShapeDtypeStruct) -> np.ndarray:
    if jnp.issubdtype(argument.dtype, jnp.integer):
        return random.integers(0, 4, argument.shape).astype(argument.dtype)
    return np.asarray(random.normal(size=argument.shape), argument.dtype)


def _spec(dtype: object, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _train_step(weight, bias, x, y):
    def loss(weight, bias):
        return jnp.mean((jax.nn.relu(x @ weight + bias) - y) ** 2)

    value, (dw, db) = jax.value_and_grad(loss, (0, 1))(weight, bias)
    return weight - 0.1 * dw, bias - 0.1 * db, value


def _scan(x, weights):
    def body(carry, weight):
        carry = jnp.tanh(carry @ weight)
        return carry, carry.sum()

    return jax.lax.scan(body, x, weights)


def _nested_calls(x):
    inner = jax.jit(lambda v: jnp.where(v > 0, v, 0.1 * v))

    def body(_, v):
        return jax.jit(lambda w: inner(w) * 0.5 + inner(-w))(v)

    return jax.lax.fori_loop(0, 3, body, inner(x))


def _recompute(weight, x):
    block = jax.checkpoint(lambda w, v: jnp.tanh(jnp.tanh(v @ w) @ w))
    return jax.grad(lambda w: block(w, x).sum())(weight)


def _embedding_gradient(table, indices):
    return jax.grad(lambda t: jnp.sum(t[indices] ** 2))(table)


def _dropout(key, x):
    keep = jax.random.bernoulli(key, 0.5, x.shape)
    return jnp.where(keep, x, 0.0)


def _branches(choice, x):
    return jax.lax.switch(choice, [jnp.sin, lambda v: v @ v.T @ v, jnp.cos], x)


def _convolution(x, weight):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
        x, weight, (1, 1), "SAME", dimension_numbers=numbers
    )
    return jax.lax.reduce_window(
        y, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )


def _shapes(x):
    halves = jnp.split(x.reshape(8, 4, 2, 2), 2, axis=1)
    joined = jnp.concatenate([half[::-1] for half in halves], axis=2)
    return jnp.pad(joined, ((1, 0),) * 4).transpose(1, 0, 3, 2)


SOURCES = (
    Source(
        "train_step",
        _train_step,
        (_spec(F32, 8, 4), _spec(F32, 4), _spec(F32, 6, 8), _spec(F32, 6, 4)),
        donated=(0, 1),
    ),
    Source("scan", _scan, (_spec(F32, 4, 8), _spec(F32, 3, 8, 8))),
    Source("nested_calls", _nested_calls, (_spec(F32, 4, 8),)),
    Source("recompute", _recompute, (_spec(F32, 8, 8), _spec(F32, 4, 8))),
    Source("embedding", _embedding_gradient, (_spec(F32, 16, 4), _spec(I32, 5, 3))),
    Source("dropout", _dropout, (_spec(U32, 2), _spec(F32, 4, 8))),
    Source("branches", _branches, (_spec(I32), _spec(F32, 4, 8))),
    Source(
        "convolution", _convolution, (_spec(F32, 2, 8, 8, 3), _spec(F32, 3, 3, 3, 4))
    ),
    Source("shapes", _shapes, (_spec(F32, 8, 16),)),
    Source("top_k", lambda x: jax.lax.top_k(x, 3), (_spec(F32, 4, 8),)),
    Source("top_k_integers", lambda x: jax.lax.top_k(x, 3), (_spec(I32, 2, 4, 8),)),
    Source("erf", lambda x: jax.nn.gelu(x, approximate=False), (_spec(F32, 4, 8),)),
    Source("argmax", lambda x: jnp.argmax(x, -1), (_spec(F32, 4, 8),)),
    Source(
        "bf16",
        lambda x, y: (x @ y).astype(F32),
        (_spec(jnp.bfloat16, 4, 8), _spec(jnp.bfloat16, 8, 2)),
    ),
    Source(
        "barrier",
        lambda x, y: jax.lax.optimization_barrier((x + 1, y * 2)),
        (_spec(F32, 4, 8), _spec(F32, 3)),
    ),
    Source("cholesky", jnp.linalg.cholesky, (_spec(F32, 1, 1),)),
)


@pytest.fixture(params=SOURCES, ids=lambda source: source.name)
def source(request: pytest.FixtureRequest) -> Source:
    """Each of `SOURCES` in turn."""
    return request.param


@pytest.fixture
def sources() -> dict[str, Source]:
    """`SOURCES` by name."""
    return {source.name: source for source in SOURCES}


@pytest.fixture
def run_module() -> Callable[..., list[np.ndarray]]:
    """Runs the main function of MLIR bytecode on one device.

    It is called with the bytecode, the arguments and a tree of results of the right
    shapes.
    """
    primitive = Primitive("run_module")
    primitive.multiple_results = True
    primitive.def_abstract_eval(lambda *_, module, results: list(results))

    def lower(context, *arguments, module, results):
        del results
        parsed = ir.Module.parse(module)
        inline_sums(parsed)
        (main,) = (op for op in parsed.body.operations if op.sym_name.value == "main")
        types = list(main.type.results)
        name = mlir.merge_mlir_modules(
            context.module_context.module,
            "planned",
            parsed,
            dst_symtab=context.module_context.symbol_table,
        )
        return func.CallOp(types, ir.FlatSymbolRefAttr.get(name), arguments).results

    mlir.register_lowering(primitive, lower)

    def run(
        module: bytes, arguments: Sequence[np.ndarray], results: object
    ) -> list[np.ndarray]:
        shapes = tuple(
            jax.core.ShapedArray(leaf.shape, leaf.dtype)
            for leaf in jax.tree.leaves(results)
        )
        step = jax.jit(
            lambda *args: primitive.bind(*args, module=module, results=shapes)
        )
        return [np.asarray(result) for result in step(*arguments)]

    return run
