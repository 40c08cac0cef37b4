"""The graph: what holds of every one, and what it says of particular ops."""

import math
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import mlir

from tepdist.program.graph import Program
from tepdist.program.reader import read_program


def graph(step: Callable[..., object], *arguments: object) -> Program:
    lowered = jax.jit(step).trace(*arguments).lower()
    data = mlir.module_to_bytecode(lowered.compiler_ir())
    return read_program(data, name="step")[0]


def ops_of(program: Program, kind: str):
    return [op for op in program.ops if op.kind == f"stablehlo.{kind}"]


@pytest.fixture
def program(source) -> Program:
    return read_program(source.bytecode(), name=source.name)[0]


def test_indices_are_positions(program):
    assert [op.index for op in program.ops] == list(range(len(program.ops)))
    assert [value.index for value in program.values] == list(range(len(program.values)))
    assert program.arguments == tuple(range(len(program.arguments)))


def test_every_value_is_defined_once_and_before_its_use(program):
    defined = set(program.arguments)
    for op in program.ops:
        new = [*op.results, *(v for region in op.regions for v in region.arguments)]
        assert defined.issuperset(op.operands)
        assert defined.isdisjoint(new)
        defined.update(new)
        assert all(program.values[value].producer == op.index for value in new)
    assert defined == set(range(len(program.values)))
    assert defined.issuperset(program.results)


def test_names_are_unique(program):
    names = [value.name for value in program.values]
    assert len(set(names)) == len(names)


def test_unblocked_factors_of_a_dim_multiply_to_its_extent(program):
    for op in program.ops:
        if op.rule is None:
            continue
        tensors = (*op.rule.operands, *op.rule.results)
        for value, dims in zip((*op.operands, *op.results), tensors, strict=True):
            shape = program.values[value].shape
            for extent, factors in zip(shape, dims, strict=True):
                product = math.prod(op.rule.sizes[factor] for factor in factors)
                assert product == extent or op.rule.blocked.issuperset(factors)


def test_reading_the_bytes_of_a_program_gives_its_graph(program):
    again, _ = read_program(program.module, name=program.name)
    assert again == program


def test_a_matrix_product_sums_over_its_contracting_factor():
    program = graph(jnp.matmul, jnp.ones((4, 8)), jnp.ones((8, 2)))
    (product,) = ops_of(program, "dot_general")
    (row, inner), (inner_again, column) = product.rule.operands
    assert inner == inner_again
    assert product.rule.results == ((row, column),)
    assert product.rule.reduction == set(inner)
    assert product.rule.sizes[inner[0]] == 8


def test_a_reshape_splits_a_dim_into_factors_major_first():
    program = graph(lambda x: x.reshape(4, 2, 3), jnp.ones((8, 3)))
    (reshape,) = ops_of(program, "reshape")
    ((merged, last),) = reshape.rule.operands
    assert [reshape.rule.sizes[factor] for factor in merged] == [4, 2]
    assert reshape.rule.results == (((merged[0],), (merged[1],), last),)


def test_a_barrier_ties_each_operand_to_its_result_only():
    barrier = jax.lax.optimization_barrier
    program = graph(lambda x, y: barrier((x, y)), jnp.ones((4, 2)), jnp.ones(3))
    (op,) = ops_of(program, "optimization_barrier")
    assert op.rule.operands == op.rule.results == (((0,), (1,)), ((2,),))
    assert op.rule.sizes == (4, 2, 3)


@pytest.mark.parametrize("step", [jax.lax.erf, jax.lax.digamma, jnp.sinh])
def test_chlo_ops_are_elementwise(step):
    program = graph(step, jnp.ones((4, 2)))
    assert all(op.rule is not None for op in program.ops)
    assert program.ops[-1].rule.results == (((0,), (1,)),)


def test_top_k_blocks_the_dim_it_sorts_only():
    program = graph(lambda x: jax.lax.top_k(x, 3), jnp.ones((4, 8)))
    (sort,) = ops_of(program, "sort")
    batch, sorted_dim = sort.rule.operands[0]
    assert sort.rule.blocked == set(sorted_dim)
    assert sort.rule.results[0][0] == batch


def test_a_while_is_one_op_with_the_ops_of_its_regions_below_it():
    def body(carry, weight):
        return jnp.tanh(carry @ weight), None

    program = graph(
        lambda x, w: jax.lax.scan(body, x, w)[0], jnp.ones((4, 8)), jnp.ones((5, 8, 8))
    )
    (loop,) = ops_of(program, "while")
    (product,) = ops_of(program, "dot_general")
    assert loop.rule is None
    assert loop.parent is None
    assert product.parent == loop.index
    assert loop.trips == 5
    condition, step = loop.regions
    assert len(step.yields) == len(step.arguments) == len(loop.operands)
    assert len(condition.yields) == 1
    name = program.values[step.arguments[0]].name
    assert name == f"while.{loop.index}/{len(condition.arguments)}"


@pytest.mark.parametrize(
    ("start", "stop", "step", "trips"),
    [(0, 7, 1, 7), (3, 7, 1, 4), (0, 7, 2, 4), (5, 3, 1, 0)],
)
def test_trips_of_a_counting_loop(start, stop, step, trips):
    def loop(x):
        return jax.lax.while_loop(
            lambda c: c[0] < stop, lambda c: (c[0] + step, c[1] * x), (start, x)
        )

    loops = ops_of(graph(loop, jnp.ones(4)), "while")
    assert [op.trips for op in loops] in ([trips], [])


def test_trips_of_a_loop_to_an_argument_are_unknown():
    def loop(n, x):
        return jax.lax.fori_loop(0, n, lambda _, v: v * 2, x)

    (op,) = ops_of(graph(loop, 3, jnp.ones(4)), "while")
    assert op.trips is None


def test_only_plain_bodies_are_reduced_in_parts():
    def step(x, indices):
        return x.sum(0), x.max(1), jnp.zeros((9, 2)).at[indices].add(x), x.argmax()

    program = graph(step, jnp.ones((4, 2)), jnp.arange(4))
    *plain, argmax = sorted(ops_of(program, "reduce"), key=lambda op: len(op.results))
    assert len(plain) == 2
    assert not any(op.rule.reduction & op.rule.blocked for op in plain)
    assert argmax.rule.reduction <= argmax.rule.blocked
    (scatter,) = ops_of(program, "scatter")
    assert scatter.rule.reduction
    assert not scatter.rule.reduction & scatter.rule.blocked


def test_equal_layers_have_equal_signatures():
    def layers(x, weights):
        for weight in weights:
            x = jnp.where(x > 0, x, 0.1 * x) @ weight
            x = x - x.max(-1, keepdims=True)
        return x

    weights = [jnp.ones((8, 8))] * 3
    program = graph(layers, jnp.ones((4, 8)), weights)
    for kind in ("dot_general", "reduce", "select"):
        ops = ops_of(program, kind)
        assert len(ops) == 3
        assert len({op.signature for op in ops}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x.sum(0), lambda x: x.max(0)),
        (lambda x: x.sum(0), lambda x: x.sum(1)),
        (lambda x: x.T, lambda x: x + 1),
        (lambda x: x[:2], lambda x: x[2:]),
    ],
)
def test_ops_that_differ_have_different_signatures(one, other):
    x = jnp.ones((4, 4))
    signatures = [graph(step, x).ops[-1].signature for step in (one, other)]
    assert signatures[0] != signatures[1]


@pytest.mark.parametrize("name", ["train_step", "scan"])
def test_bytes_and_signatures_are_the_same_in_another_process(sources, name, tmp_path):
    program = read_program(sources[name].bytecode(), name="step")[0]
    file = tmp_path / "program"
    file.write_bytes(program.module)
    script = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from tepdist.program.reader import read_program\n"
        f"data = open({str(file)!r}, 'rb').read()\n"
        "program, _ = read_program(data, name='step')\n"
        "assert program.module == data\n"
        "print(*(op.signature for op in program.ops))\n"
    )
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.split() == [op.signature for op in program.ops]


@pytest.mark.parametrize(
    ("dtype", "one", "other"),
    [
        ("complex<f32>", "(0.0, 1.0)", "(0.0, 2.0)"),
        ("f8E4M3FN", "1.0", "2.0"),
        ("bf16", "1.0", "2.0"),
        ("i4", "1", "2"),
        ("i1", "true", "false"),
        ("f32", "[1.0, 2.0]", "[2.0, 1.0]"),
    ],
)
def test_constants_of_any_dtype_are_told_apart(dtype, one, other):
    signatures = set()
    for value in (one, other):
        type_ = f"tensor<{'2x' if '[' in value else ''}{dtype}>"
        text = f"""func.func @main() -> {type_} {{
          %0 = stablehlo.constant dense<{value}> : {type_}
          return %0 : {type_}
        }}"""
        program, _ = read_program(text.encode(), name="constant")
        assert program.values[0].dtype == dtype
        signatures.add(program.ops[0].signature)
    assert len(signatures) == 2
