"""Loading a file: its program, and the roles from the nearest place that has them."""

import json

import pytest

from tepdist.errors import ProgramError, RolesError
from tepdist.frontends.files import load
from tepdist.program.export import export_program
from tepdist.program.roles import Role

TEXT = """
func.func @main(%w: tensor<4x2xf32> {tf.aliasing_output = 0 : i32},
    %x: tensor<3x4xf32>) -> (tensor<4x2xf32>, tensor<f32>) {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %new = stablehlo.add %w, %w : tensor<4x2xf32>
  %loss = stablehlo.reduce(%x init: %zero) applies stablehlo.add
    across dimensions = [0, 1] : (tensor<3x4xf32>, tensor<f32>) -> tensor<f32>
  return %new, %loss : tensor<4x2xf32>, tensor<f32>
}"""
ROLES = {
    "arguments": [
        {"name": "weight", "role": "state"},
        {"name": "tokens", "role": "batch", "batch_dim": 1},
    ],
    "results": [
        {"name": "new", "replaces": "weight"},
        {"name": "loss", "is_loss": True},
    ],
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "step.mlir"
    path.write_text(TEXT)
    return path


def test_without_a_sidecar_the_module_speaks(path):
    program, roles = load(path)
    assert program.name == "step.mlir"
    assert [role.role for role in roles.arguments] == [Role.STATE, Role.BATCH]
    assert roles.arguments[0].donated


def test_the_sidecar_beside_the_file_is_taken(path):
    path.with_name("step.mlir.roles.json").write_text(json.dumps(ROLES))
    program, roles = load(path)
    assert roles.arguments[1].batch_dim == 1
    names = [program.values[value].name for value in program.arguments]
    assert names == ["weight", "tokens"]


def test_a_stated_sidecar_goes_before_the_one_beside_the_file(path, tmp_path):
    path.with_name("step.mlir.roles.json").write_text("{")
    other = tmp_path / "other.json"
    other.write_text(json.dumps(ROLES))
    assert load(path, other)[1].arguments[0].name == "weight"


def test_what_was_exported_is_loaded(path, tmp_path):
    program, roles = load(path)
    export_program(program, roles, tmp_path / "exported")
    again, same_roles = load(tmp_path / "exported")
    assert same_roles == roles
    assert [op.signature for op in again.ops] == [op.signature for op in program.ops]


def test_a_damaged_binary_is_refused(path, tmp_path):
    program, roles = load(path)
    exported = tmp_path / "exported"
    export_program(program, roles, exported)
    exported.write_bytes(exported.read_bytes()[:-40])
    with pytest.raises(ProgramError, match="cannot be read") as caught:
        load(exported)
    assert caught.value.where == "exported"


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ProgramError, match="No such file") as caught:
        load(tmp_path / "none.mlir")
    assert caught.value.where == str(tmp_path / "none.mlir")


def test_a_missing_sidecar_is_refused(path, tmp_path):
    with pytest.raises(RolesError, match="cannot read the roles"):
        load(path, tmp_path / "none.json")


def test_a_sidecar_of_another_program_is_refused_with_its_file(path):
    sidecar = path.with_name("step.mlir.roles.json")
    sidecar.write_text(json.dumps({**ROLES, "results": []}))
    with pytest.raises(RolesError, match="name 0 results") as caught:
        load(path)
    assert caught.value.where == str(sidecar)
