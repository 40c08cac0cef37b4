"""Normalising: the same numbers, no calls, and nothing left to do a second time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir

from tepdist.errors import ProgramError
from tepdist.program import module as modules
from tepdist.program.inline import find_ops
from tepdist.program.normalise import normalise


def normalised(data: bytes | str) -> bytes:
    with modules.new_context():
        module = modules.parse(data)
        normalise(module)
        return modules.to_bytecode(module)


def text_of(bytecode: bytes) -> str:
    with modules.new_context():
        return str(modules.parse(bytecode))


def test_a_normalised_module_is_left_as_it_is(source):
    once = normalised(source.bytecode())
    assert normalised(once) == once


def test_normalising_keeps_the_numbers(source, run_module):
    inputs = source.inputs()
    expected = jax.tree.leaves(jax.jit(source.function)(*inputs))
    actual = run_module(normalised(source.bytecode()), inputs, expected)
    for result, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-6, atol=1e-6)


def test_no_calls_are_left(source):
    with modules.new_context():
        module = modules.parse(source.bytecode())
        normalise(module)
        assert not find_ops(module, {"func.call", "stablehlo.composite"})
        assert len(module.body.operations) == 1


def test_donation_names_and_partition_counts_are_dropped(sources):
    text = text_of(normalised(sources["train_step"].bytecode()))
    for word in ("tf.aliasing_output", "jax.result_info", "mhlo.num_partitions"):
        assert word not in text


def test_moving_the_source_in_its_file_changes_nothing():
    code = "def step(x):\n    return jnp.tanh(x) + 1\n"
    modules_ = []
    for prefix, file in (("", "one.py"), ("\n" * 40, "two.py")):
        names = {"jnp": jnp}
        exec(compile(prefix + code, file, "exec"), names)
        lowered = jax.jit(names["step"]).lower(jnp.ones(4))
        modules_.append(normalised(mlir.module_to_bytecode(lowered.compiler_ir())))
    assert modules_[0] == modules_[1]


def test_an_inlined_op_keeps_the_scope_of_its_call():
    @jax.jit
    def inner(x):
        with jax.named_scope("inside"):
            return jnp.sin(x)

    def step(x):
        with jax.named_scope("outside"):
            return inner(x)

    lowered = jax.jit(step).lower(jnp.ones(4))
    bytecode = normalised(mlir.module_to_bytecode(lowered.compiler_ir()))
    with modules.new_context():
        (op,) = find_ops(modules.parse(bytecode), {"stablehlo.sine"})
        assert "outside" in op.location.name_str
        assert "inside" in op.location.name_str


def test_stated_shardings_are_dropped():
    text = """
    module {
      sdy.mesh @mesh = <["x"=2]>
      func.func @main(%a: tensor<4xf32>
          {sdy.sharding = #sdy.sharding<@mesh, [{"x"}]>}) -> tensor<4xf32> {
        %0 = sdy.sharding_constraint %a <@mesh, [{"x"}]> : tensor<4xf32>
        %1 = stablehlo.custom_call @Sharding(%0) : (tensor<4xf32>) -> tensor<4xf32>
        %2 = stablehlo.sine %1 {mhlo.sharding = "{replicated}"} : tensor<4xf32>
        return %2 : tensor<4xf32>
      }
    }"""
    left = text_of(normalised(text))
    assert "shard" not in left.lower()
    assert "mesh" not in left
    assert "stablehlo.sine %arg0" in left


@pytest.mark.parametrize(
    ("functions", "path"),
    [
        ({"main": "f", "f": "f"}, "f -> f"),
        ({"main": "f", "f": "g", "g": "f"}, "f -> g -> f"),
    ],
)
def test_recursion_is_refused(functions, path):
    bodies = "\n".join(
        f"""func.func {"public" if name == "main" else "private"} @{name}
        (%a: tensor<f32>) -> tensor<f32> {{
          %0 = func.call @{callee}(%a) : (tensor<f32>) -> tensor<f32>
          return %0 : tensor<f32>
        }}"""
        for name, callee in functions.items()
    )
    with pytest.raises(ProgramError, match="the program calls itself") as caught:
        normalised(f"module {{ {bodies} }}")
    cycle = caught.value.problem.rpartition(": ")[2].split(" -> ")
    assert sorted(set(cycle)) == sorted(set(path.split(" -> ")))


def test_a_program_partitioned_by_hand_is_refused():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("x")
    step = jax.shard_map(jnp.sin, mesh=mesh, in_specs=spec, out_specs=spec)
    lowered = jax.jit(step).lower(jnp.ones(4))
    with pytest.raises(ProgramError, match="already partitioned"):
        normalised(mlir.module_to_bytecode(lowered.compiler_ir()))
