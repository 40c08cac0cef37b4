"""`tepdist run`: with arrays that are given, and with made-up ones."""

import math
from pathlib import Path

import numpy as np
import pytest

from tepdist.cli.inputs import first_arguments
from tepdist.cli.main import run
from tepdist.cli.programs import load_program

PROGRAM = "zoo:mlp:layers=2,width=16,batch=8"


def losses(command: str, capsys: pytest.CaptureFixture[str]) -> list[float]:
    """What each of four steps says the loss is."""
    capsys.readouterr()
    assert run([*command.split(), "--cluster", "cpu:4", "--level", "O1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [float(line.split()[3]) for line in lines if "  loss " in line]


@pytest.fixture
def exported(tmp_path: Path) -> str:
    path = tmp_path / "mlp.stablehlo"
    assert run(["export", PROGRAM, "-o", str(path)]) == 0
    return str(path)


def test_a_file_given_the_inputs_of_the_built_in_program_has_its_losses(
    exported: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_program(PROGRAM)
    names = [role.name for role in loaded.roles.arguments]
    arrays = dict(zip(names, first_arguments(loaded), strict=True))
    np.savez(tmp_path / "inputs.npz", **arrays)
    given = losses(
        f"run {exported} --steps 4 --inputs {tmp_path / 'inputs.npz'}", capsys
    )
    assert given == losses(f"run {PROGRAM} --steps 4", capsys)


def test_arrays_of_dtypes_that_numpy_does_not_know_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "narrow.mlir"
    path.write_text(
        "func.func @main(%x: tensor<8xbf16>) -> tensor<8xbf16> {\n"
        "  %0 = stablehlo.add %x, %x : tensor<8xbf16>\n"
        "  return %0 : tensor<8xbf16>\n}"
    )
    name = load_program(str(path)).roles.arguments[0].name
    (made_up,) = first_arguments(load_program(str(path)))
    np.savez(tmp_path / "inputs.npz", **{name: np.asarray(made_up)})
    command = f"run {path} --cluster cpu:4 --steps 1 --inputs {tmp_path / 'inputs.npz'}"
    assert run(command.split()) == 0


@pytest.mark.parametrize("program", [PROGRAM, "zoo:gpt:tiny", "zoo:resnet:tiny"])
def test_the_loss_of_a_file_falls_from_made_up_inputs(
    program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "step.stablehlo"
    assert run(["export", program, "-o", str(path)]) == 0
    found = losses(f"run {path} --steps 4", capsys)
    assert all(map(math.isfinite, found))
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"params/0/z": np.zeros(16, np.float32)}, "no argument 'params/0/z'"),
        ({"params/0/b": np.zeros(17, np.float32)}, "float32[17], the program takes"),
        ({"params/0/b": np.zeros(16, np.float64)}, "float64[16], the program takes"),
        ({"params/0/b": np.zeros(16, object)}, "no arrays can be read"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    arrays: dict[str, np.ndarray],
    problem: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "inputs.npz"
    np.savez(path, allow_pickle=True, **arrays)
    command = ["run", PROGRAM, "--cluster", "cpu:4", "--inputs", str(path)]
    assert run(command) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY"])
def test_files_that_hold_no_arrays_are_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "inputs.npz"
    path.write_bytes(content)
    command = ["run", PROGRAM, "--cluster", "cpu:4", "--inputs", str(path)]
    assert run(command) == 2
    assert "no arrays can be read" in capsys.readouterr().err
