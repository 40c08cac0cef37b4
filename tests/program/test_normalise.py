"""Normalising: the same numbers, no calls, and nothing left to do a second time."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.interpreters import mlir
from jax.sharding import AxisType

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


STATED = """
module {
  sdy.mesh @first = <["x"=2, "y"=1]>
  sdy.mesh @unused = <["z"=4]>
  func.func @main(%a: tensor<4xf32>
      {sdy.sharding = #sdy.sharding<@first, [{"x", ?}p1]>}, %b: tensor<4xf32>
      {sdy.sharding = #sdy.sharding<@first, [{?}]>}) -> (tensor<4xf32>
      {sdy.sharding = #sdy.sharding<@first, [{}]>}) {
    %0 = sdy.sharding_constraint %a <@first, [{?}]> : tensor<4xf32>
    %1 = stablehlo.custom_call @Sharding(%0) : (tensor<4xf32>) -> tensor<4xf32>
    %2 = stablehlo.sine %1 {mhlo.sharding = "{replicated}"} : tensor<4xf32>
    %3 = sdy.reshard %2 <@first, [{"x", "y"}]> : tensor<4xf32>
    %4 = stablehlo.add %3, %b : tensor<4xf32>
    return %4 : tensor<4xf32>
  }
}"""


def test_of_stated_shardings_those_stay_that_say_something():
    left = text_of(normalised(STATED))
    assert normalised(normalised(STATED)) == normalised(STATED)
    assert re.findall(r"sharding_constraint (%\d+) (<.*>) :", left) == [
        ("%0", '<@mesh, [{"x"}]>'),
        ("%2", "<@mesh, [{}]>"),
    ]
    assert re.findall(r"%arg(\d): tensor<4xf32> {(.*?)}[,)]", left) == [
        ("0", 'sdy.sharding = #sdy.sharding<@mesh, [{"x", ?}]>')
    ]
    assert re.findall(r"sdy.mesh (.*)", left) == ['@mesh = <["x"=2, "y"=1]>']
    assert "custom_call" not in left
    assert "mhlo.sharding" not in left


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        ('<@other, [{"z"}]>', "different meshes: x=2,y=4 and z=4"),
        ('<@mesh, [{"y":(1)2}]>', "a part of mesh axis 'y'"),
        ('<@mesh, [{}], unreduced={"x"}>', "partial sums"),
        ("<@turned, [{}]>", "order of its own"),
    ],
)
def test_what_cannot_be_honoured_is_refused(stated, problem):
    text = f"""
    module {{
      sdy.mesh @mesh = <["x"=2, "y"=4]>
      sdy.mesh @other = <["z"=4]>
      {'sdy.mesh @turned = <["x"=2], device_ids=[1, 0]>' if "turned" in stated else ""}
      func.func @main(%a: tensor<8xf32>) -> tensor<8xf32> {{
        %0 = sdy.sharding_constraint %a <@mesh, [{{"x"}}]> : tensor<8xf32>
        %1 = sdy.sharding_constraint %0 {stated} : tensor<8xf32>
        return %1 : tensor<8xf32>
      }}
    }}"""
    with pytest.raises(ProgramError, match=problem):
        normalised(text)


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


PUBLIC = """
module {
  func.func public @double(%a: tensor<4xf32>) -> tensor<4xf32> {
    %0 = stablehlo.add %a, %a : tensor<4xf32>
    return %0 : tensor<4xf32>
  }
  func.func public @apart(%a: tensor<4xf32>) -> tensor<4xf32> {
    %0 = stablehlo.composite "my.sine" %a {decomposition = @sine}
      : (tensor<4xf32>) -> tensor<4xf32>
    return %0 : tensor<4xf32>
  }
  func.func @sine(%a: tensor<4xf32>) -> tensor<4xf32> {
    %0 = stablehlo.sine %a : tensor<4xf32>
    return %0 : tensor<4xf32>
  }
  func.func public @main(%a: tensor<4xf32>) -> tensor<4xf32> {
    %0 = func.call @double(%a) : (tensor<4xf32>) -> tensor<4xf32>
    %1 = func.call @apart(%0) : (tensor<4xf32>) -> tensor<4xf32>
    return %1 : tensor<4xf32>
  }
}"""


def test_public_functions_that_main_calls_are_its_parts():
    with modules.new_context():
        module = modules.parse(PUBLIC)
        normalise(module)
        (main,) = module.body.operations
        kinds = [op.operation.name for op in main.body.blocks[0].operations]
    assert kinds == ["stablehlo.add", "stablehlo.sine", "func.return"]


@pytest.mark.parametrize("function", [lax.approx_max_k, lax.approx_min_k])
@pytest.mark.parametrize("is_aggregated", [True, False])
def test_approximate_top_k_is_a_sort(function, is_aggregated, run_module):
    def step(x):
        return function(x, 3, reduction_dimension=0, aggregate_to_topk=is_aggregated)

    x = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)
    expected = jax.jit(step)(x)
    lowered = jax.jit(step).lower(x)
    bytecode = normalised(mlir.module_to_bytecode(lowered.compiler_ir()))
    for one, other in zip(run_module(bytecode, (x,), expected), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(one)[:3], np.asarray(other)[:3])
    with modules.new_context():
        module = modules.parse(bytecode)
        assert len(module.body.operations) == 1
        assert find_ops(module, {"stablehlo.sort"})
        assert not find_ops(module, {"stablehlo.custom_call"})


def test_a_program_partitioned_for_another_compiler_is_refused():
    text = """
    module {
      func.func @main(%a: tensor<4xf32>) -> tensor<2xf32> {
        %0 = stablehlo.custom_call @SPMDFullToShardShape(%a)
          : (tensor<4xf32>) -> tensor<2xf32>
        return %0 : tensor<2xf32>
      }
    }"""
    with pytest.raises(ProgramError, match="already partitioned"):
        normalised(text)


def test_a_manual_region_inside_another_is_refused():
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)

    def manual(function, axis):
        spec = jax.sharding.PartitionSpec(axis)
        return jax.shard_map(
            function, mesh=None, in_specs=spec, out_specs=spec, axis_names={axis}
        )

    with jax.set_mesh(mesh):
        step = manual(lambda a: manual(jnp.sin, "y")(a), "x")
        lowered = jax.jit(step).lower(jnp.ones(4))
    with pytest.raises(ProgramError, match="shard_map inside another"):
        normalised(mlir.module_to_bytecode(lowered.compiler_ir()))
