"""What loops and branches compute for nobody is no part of a program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.interpreters import mlir

from tepdist.program import module as modules
from tepdist.program.inline import find_ops
from tepdist.program.normalise import normalise

X = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
P = np.float32(1)


def one_of_three(x, p):
    """The second carry is read by the first, the third by itself alone."""

    def body(_, carry):
        a, b, unread = carry
        return a + b, jnp.sin(b) * p, unread @ unread

    return lax.fori_loop(0, 3, body, (x, x * 2, x + 1))[0]


def rows_only(x, p):
    """Of a scan the stacked results, not what it carries besides."""

    def body(carry, row):
        return (carry[0] + row, carry[1] @ x), (row * p, carry[1])

    return lax.scan(body, (x[0], x), x)[1][0]


def inner(x, p):
    """Dead in an inner loop because the outer one drops what it makes."""

    def body(carry, _):
        a, b = carry
        a, b = lax.fori_loop(0, 2, lambda _, c: (jnp.sin(c[0]), c[1] @ c[1]), (a, b))
        return (a * p, b), b

    return lax.scan(body, (x, x), None, length=2)[0][0]


def branch(x, p):
    return lax.cond(p > 0, lambda: (x * 2, x @ x), lambda: (x, x + x))[0]


def in_condition(x, p):
    """A carry that only the condition reads is read."""

    def body(carry):
        return carry[0] + x, carry[1] * 0.5

    return lax.while_loop(lambda carry: carry[1] > 0.1, body, (x, p))[0]


def crossed(x, p):
    """Each carry is read by another, the last of them by nothing else."""

    def body(_, carry):
        a, b, c, d = carry
        return b, a * p, d @ c, c

    return lax.fori_loop(0, 3, body, (x, x + 1, x, x))[0]


@pytest.mark.parametrize(
    ("fn", "num_results"),
    [
        # Its counter and what it reads of outside are carried too.
        (one_of_three, [4]),
        (rows_only, [4]),
        (inner, [3, 2]),
        (branch, [1]),
        (in_condition, [3]),
        (crossed, [4]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_nobody_reads_is_dropped(fn, num_results, run_module):
    expected = jax.jit(fn)(X, P)
    lowered = jax.jit(fn).lower(X, P)
    with modules.new_context():
        module = modules.parse(mlir.module_to_bytecode(lowered.compiler_ir()))
        normalise(module)
        kinds = {"stablehlo.while", "stablehlo.case", "stablehlo.if"}
        assert [len(op.results) for op in find_ops(module, kinds)] == num_results
        assert not find_ops(module, {"stablehlo.dot_general"})
        bytecode = modules.to_bytecode(module)
        normalise(module)
        assert modules.to_bytecode(module) == bytecode
    (got,) = run_module(bytecode, (X, P), [expected])
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-6)


EFFECT = """
func.func @main(%x: tensor<4xf32>, %n: tensor<i32>) -> tensor<i32> {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %r:2 = stablehlo.while(%i = %zero, %a = %x) : tensor<i32>, tensor<4xf32>
  cond {
    %c = stablehlo.compare LT, %i, %n : (tensor<i32>, tensor<i32>) -> tensor<i1>
    stablehlo.return %c : tensor<i1>
  } do {
    %one = stablehlo.constant dense<1> : tensor<i32>
    %j = stablehlo.add %i, %one : tensor<i32>
    %b = stablehlo.custom_call @tell(%a) {has_side_effect = true}
      : (tensor<4xf32>) -> tensor<4xf32>
    stablehlo.return %j, %b : tensor<i32>, tensor<4xf32>
  }
  return %r#0 : tensor<i32>
}"""


def test_what_has_effects_keeps_what_it_reads():
    with modules.new_context():
        module = modules.parse(EFFECT)
        normalise(module)
        (loop,) = find_ops(module, {"stablehlo.while"})
        assert len(loop.results) == 2
        assert find_ops(module, {"stablehlo.custom_call"})
