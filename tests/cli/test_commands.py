"""The commands as a user types them: output, files and exit codes."""

import json
import tomllib
from pathlib import Path

import pytest

from tepdist import __version__
from tepdist.cli.main import COMMANDS, run

PROGRAM = "zoo:mlp:layers=2,width=16,batch=8"


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    assert run(["plan", PROGRAM, "--cluster", "cpu:4", "-o", str(path)]) == 0
    return path


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name, (_, line) in COMMANDS.items():
        assert run([name, "--help"]) == 0
        assert "Usage: tepdist" in capsys.readouterr().out
        assert run(["--help"]) == 0
        assert line in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == __version__


def test_plan_prints_one_screen(
    plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", str(plan_file)]) == 0
    text = capsys.readouterr().out
    for word in ("program", "cluster", "mesh", "step", "memory", "search", "cpu:4"):
        assert word in text


def test_json_stands_alone_on_standard_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["plan", PROGRAM, "--cluster", "cpu:4", "--level", "O1", "--json"]
    assert run([*command, "--mesh", "data=4"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["stages"][0]["mesh"] == {"axes": {"data": 4}}
    assert document["search"]["level"] == "O1"
    assert captured.err == ""


def test_constraints_are_read_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "constraints.json"
    file.write_text('{"params/0/w": [null, "model"]}')
    command = ["plan", PROGRAM, "--cluster", "cpu:4", "--mesh", "model=4", "--json"]
    assert run([*command, "--constraints", str(file)]) == 0
    document = json.loads(capsys.readouterr().out)
    (argument,) = (a for a in document["arguments"] if a["name"] == "params/0/w")
    assert argument["placements"][0]["sharding"] == [[], ["model"]]


def test_outside_a_terminal_there_is_no_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run(["plan", PROGRAM, "--cluster", "cpu:4", "--mesh", "3x3"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_explain_names_the_sharding(
    plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", str(plan_file), "params/0/w"]) == 0
    assert "params/0/w, state" in capsys.readouterr().out


def test_explain_lists_what_a_pattern_means(
    plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", str(plan_file), "params/*/w"]) == 0
    text = capsys.readouterr().out
    assert "params/0/w" in text
    assert "params/1/w" in text
    assert "opt" not in text
    assert "2 match params/*/w" in text


def test_explain_takes_a_pattern_of_one_for_its_name(
    plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for name in ("params/0/w", "param?/0/w"):
        assert run(["explain", str(plan_file), name]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert "otherwise" in outputs[0]


def test_diff_of_a_plan_with_itself(
    plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["diff", str(plan_file), str(plan_file)]) == 0
    assert capsys.readouterr().out == "the plans decide the same\n"


def test_an_exported_program_plans_as_the_built_in_one(
    tmp_path: Path, plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mlp.stablehlo"
    assert run(["export", PROGRAM, "-o", str(file)]) == 0
    assert (tmp_path / "mlp.stablehlo.roles.json").exists()
    capsys.readouterr()
    assert run(["plan", str(file), "--cluster", "cpu:4", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    first = json.loads(plan_file.read_text())
    assert again["program"]["num_ops"] == first["program"]["num_ops"]
    assert again["predicted"] == first["predicted"]


@pytest.mark.parametrize("as_file", [False, True])
def test_run_prints_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, as_file: bool
) -> None:
    program = PROGRAM
    if as_file:
        program = str(tmp_path / "mlp.stablehlo")
        assert run(["export", PROGRAM, "-o", program]) == 0
        capsys.readouterr()
    assert run(["run", program, "--cluster", "cpu:4", "--steps", "3"]) == 0
    text = capsys.readouterr().out
    losses = [
        line.split()[3] for line in text.splitlines() if line.startswith("step  ")
    ]
    assert len(losses) >= 3
    assert "3 steps, median" in text


def test_zoo_lists_sizes_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["zoo"]) == 0
    text = capsys.readouterr().out
    for word in ("zoo:gpt", "zoo:mlp", "175b", "hidden", "zoo:moe_layer", "wide50"):
        assert word in text


def test_doctor_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("jaxlib", "pytoulbar2", "[cuda13]"):
        assert word in text


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "none.json", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
