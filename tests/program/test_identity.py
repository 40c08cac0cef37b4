"""Fingerprints and exports: one identity for one program, wherever it is read."""

import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlib.mlir import ir

from tepdist.errors import ProgramError
from tepdist.frontends.jax import trace
from tepdist.program import module as modules
from tepdist.program.export import export_program, portable_artifact
from tepdist.program.fingerprint import fingerprint
from tepdist.program.infer import infer_roles
from tepdist.program.inline import find_ops
from tepdist.program.reader import read_program
from tepdist.program.roles import Role
from tepdist.program.sidecar import sidecar_path


def test_the_fingerprint_is_of_program_and_roles(sources):
    program, roles = read_program(sources["train_step"].bytecode(), name="step")
    other, _ = read_program(sources["scan"].bytecode(), name="step")
    renamed = replace(roles.arguments[0], name="other")
    other_roles = replace(roles, arguments=(renamed, *roles.arguments[1:]))
    prints = {
        fingerprint(program, roles),
        fingerprint(program, other_roles),
        fingerprint(other, roles),
    }
    assert len(prints) == 3
    assert fingerprint(replace(program, name="other"), roles) in prints


def test_the_fingerprint_is_the_same_in_another_process(sources, tmp_path):
    data = sources["train_step"].bytecode()
    file = tmp_path / "step.mlir"
    file.write_bytes(data)
    script = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from tepdist.program.fingerprint import fingerprint\n"
        "from tepdist.program.reader import read_program\n"
        f"data = open({str(file)!r}, 'rb').read()\n"
        "print(fingerprint(*read_program(data, name='step')))\n"
    )
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.strip() == fingerprint(*read_program(data, name="step"))


def test_an_exported_program_computes_the_same(source, run_module):
    program, _ = read_program(source.bytecode(), name="step")
    artifact = portable_artifact(program)
    again, _ = read_program(artifact, name="step")
    inputs = source.inputs()
    expected = jax.tree.leaves(jax.jit(source.function)(*inputs))
    for result, wanted in zip(
        run_module(again.module, inputs, expected), expected, strict=True
    ):
        np.testing.assert_allclose(result, wanted, rtol=1e-6, atol=1e-6)


def test_exporting_what_was_exported_gives_the_same_program(source):
    program, _ = read_program(source.bytecode(), name="step")
    once, _ = read_program(portable_artifact(program), name="step")
    twice, _ = read_program(portable_artifact(once), name="step")
    assert [op.signature for op in twice.ops] == [op.signature for op in once.ops]


def test_text_bytecode_and_artifact_are_one_program(sources):
    data = sources["train_step"].bytecode()
    program, _ = read_program(data, name="step")
    with modules.new_context():
        text = str(modules.parse(data)).encode()
    again, _ = read_program(text, name="step")
    exported, _ = read_program(portable_artifact(program), name="step")
    assert program.module == exported.module
    # Text without locations has lost the scopes, and nothing else.
    assert [op.signature for op in program.ops] == [op.signature for op in again.ops]


def test_export_writes_the_roles_beside(sources, tmp_path):
    program, roles = read_program(sources["train_step"].bytecode(), name="step")
    path = tmp_path / "step.mlirbc"
    export_program(program, roles, path)
    assert modules.is_portable(path.read_bytes())
    assert sidecar_path(path).name == "step.mlirbc.roles.json"
    assert sidecar_path(path).exists()


def test_the_written_version_is_the_one_asked_for(sources):
    program, _ = read_program(sources["train_step"].bytecode(), name="step")
    version = modules.current_version()
    artifact = portable_artifact(program, version=version)
    assert f"StableHLO_v{version}".encode() in artifact[:32]


@pytest.mark.parametrize("version", ["99.0.0", "1.0", "new"])
def test_an_unknown_version_is_refused(sources, version):
    program, _ = read_program(sources["train_step"].bytecode(), name="step")
    with pytest.raises(ProgramError, match=f"StableHLO {version} is unknown"):
        portable_artifact(program, version=version)


def test_roles_are_guessed_from_shapes_when_nothing_is_stated():
    text = b"""
    func.func @main(%w: tensor<4x2xf32>, %step: tensor<i32>, %x: tensor<3x4xf32>,
        %key: tensor<2xui32>, %rate: tensor<f32>)
        -> (tensor<4x2xf32>, tensor<i32>, tensor<f32>) {
      return %w, %step, %rate : tensor<4x2xf32>, tensor<i32>, tensor<f32>
    }"""
    program, stated = read_program(text, name="step")
    roles = infer_roles(program)
    assert stated is None
    assert [argument.role for argument in roles.arguments] == [
        Role.STATE,
        Role.STATE,
        Role.BATCH,
        Role.CONSTANT,
        Role.CONSTANT,
    ]
    assert [result.replaces for result in roles.results] == ["arg0", "arg1", None]
    assert [result.is_loss for result in roles.results] == [False, False, True]


def test_a_version_that_lacks_a_type_is_refused():
    text = b"""func.func @main(%a: tensor<f4E2M1FN>) -> tensor<f4E2M1FN> {
      return %a : tensor<f4E2M1FN>
    }"""
    program, _ = read_program(text, name="step")
    with pytest.raises(ProgramError, match=r"as StableHLO 1\.0\.0"):
        portable_artifact(program, version="1.0.0")


@pytest.mark.parametrize("name", ["cholesky", "qr", "eigh", "svd", "lu"])
def test_linear_algebra_keeps_its_rules_in_a_portable_artifact(name: str) -> None:
    """JAX states them on the calls; an artifact knows no attributes of Shardy."""
    calls = {
        "cholesky": jnp.linalg.cholesky,
        "qr": jnp.linalg.qr,
        "eigh": jnp.linalg.eigh,
        "svd": jnp.linalg.svd,
        "lu": jax.lax.linalg.lu,
    }
    traced = trace(calls[name], (np.ones((6, 4, 4), np.float32),), {}, state_argnums=())
    program = traced.read()
    again, _ = read_program(portable_artifact(program), name=name)
    assert again.module == program.module
    called = [op for op in again.ops if op.kind == "stablehlo.custom_call"]
    assert called
    assert all(op.rule is not None for op in called)


def test_a_rule_that_is_none_is_refused() -> None:
    traced = trace(
        jnp.linalg.qr, (np.ones((6, 4, 4), np.float32),), {}, state_argnums=()
    )
    with modules.new_context():
        module = modules.parse(traced.module)
        for op in find_ops(module, {"stablehlo.custom_call"}):
            del op.attributes["sdy.sharding_rule"]
            damaged = {"xla.sdy.sharding_rule": ir.StringAttr.get("no rule")}
            op.attributes["mhlo.frontend_attributes"] = ir.DictAttr.get(damaged)
        artifact = modules.write_portable(module, modules.portable_version())
    with pytest.raises(ProgramError, match="rule"):
        read_program(artifact, name="qr")
