"""Every error is a problem, a place and a hint, a line each; the exit code says whose.

Bad input of every kind that a user can type; what a file may hold besides is tried
where files are read.
"""

import contextlib
from pathlib import Path

import pytest

from tepdist.cli.main import run

PROGRAM = "zoo:mlp:layers=2,width=16,batch=8"
UNFINISHED = "module { func.func @main(%a: tensor<4xf32>) -> tensor<4xf32> {"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program, a plan, and damaged files of every kind."""
    folder = tmp_path_factory.mktemp("bad")
    with contextlib.chdir(folder):
        assert run(["export", PROGRAM, "-o", "mlp.bin"]) == 0
        assert run(["plan", PROGRAM, "--cluster", "cpu:4", "-o", "plan.json"]) == 0
        program = Path("mlp.bin").read_bytes()
        roles = Path("mlp.bin.roles.json").read_text()
        for name, text in {
            "short.mlir": UNFINISHED,
            "short.json": Path("plan.json").read_text()[:500],
            "list.json": "[]",
            "number.json": '{"params/0/w": 3}',
            "axis.json": '{"params/0/w": ["no axis"]}',
            "all.json": '{"*": ["no axis"]}',
            "stranger.json": '{"stranger": ["x"]}',
            "half.toml": "name = ",
            "bare.toml": 'name = "bare"',
            "roles.bin.roles.json": roles.replace("is_loss", "loss"),
        }.items():
            Path(name).write_text(text)
        Path("short.bin").write_bytes(program[: len(program) // 2])
        Path("roles.bin").write_bytes(program)
    return folder


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("fly", "No such command 'fly'"),
        ("plan", "Missing argument 'PROGRAM'"),
        ("plan zoo:mlp", "Missing option '--cluster'"),
        ("plan zoo:mlp --cluster moon:8", "no preset 'moon'"),
        ("plan zoo:mlp --cluster h100", "h100 without a number of devices"),
        ("plan zoo:mlp --cluster cpu:0", "a count of 0"),
        ("plan zoo:mlp --cluster 0x8xh100", "a count of 0"),
        ("plan zoo:mlp --cluster 9xh100", "at most 8 devices, not 9"),
        ("plan zoo:mlp --cluster 2x4xcpu", "cpu has no nodes"),
        ("plan zoo:mlp --cluster none.toml", "cannot read the cluster file"),
        ("plan zoo:mlp --cluster half.toml", "not a TOML file"),
        ("plan zoo:mlp --cluster bare.toml", "key 'device' is missing"),
        ("plan zoo:cat --cluster cpu:8", "'cat'"),
        ("plan zoo:mlp:legs=4 --cluster cpu:8", "'legs'"),
        ("plan zoo:mlp:width=wide --cluster cpu:8", "width=wide is not a positive"),
        ("plan zoo:gpt:tiny:hidden=5 --cluster cpu:8", "not divided by heads"),
        ("plan zoo:gpt:tiny:: --cluster cpu:8", "'' is not key=value"),
        ("plan none.mlir --cluster cpu:8", "no program file 'none.mlir'"),
        ("plan . --cluster cpu:8", "cannot read the program"),
        ("plan short.mlir --cluster cpu:8", "cannot be read"),
        ("plan short.bin --cluster cpu:8", "cannot be read"),
        ("plan roles.bin --cluster cpu:8", "unknown key 'loss'"),
        ("plan zoo:mlp --cluster cpu:8 --mesh 2y4", "mesh '2y4' is not readable"),
        ("plan zoo:mlp --cluster cpu:8 --mesh 3x3", "9 devices, the cluster 8"),
        ("plan zoo:mlp --cluster cpu:8 --mesh a=2,a=4", "are not distinct"),
        ("plan zoo:mlp --cluster cpu:8 --mesh 0x8", "mesh axis 'x' has size 0"),
        ("plan zoo:mlp --cluster cpu:8 --mesh 2x2x2x1", "mesh of 4 axes"),
        ("plan zoo:mlp --cluster cpu:8 --memory-limit huge", "size 'huge'"),
        ("plan zoo:mlp --cluster cpu:8 --memory-limit 0", "size '0' holds nothing"),
        ("plan zoo:mlp --cluster cpu:8 --time-limit -1", "'--time-limit'"),
        ("plan zoo:mlp --cluster cpu:8 --level O9", "'O9' is not one of"),
        ("plan zoo:mlp --cluster cpu:8 --stages 2", "num_stages=2"),
        ("plan zoo:mlp --cluster cpu:8 --schedule gpipe", "schedule='gpipe'"),
        ("plan zoo:mlp --cluster cpu:8 --constraints none.json", "cannot be read"),
        ("plan zoo:mlp --cluster cpu:8 --constraints short.json", "are not JSON"),
        ("plan zoo:mlp --cluster cpu:8 --constraints number.json", "not an object of"),
        ("plan zoo:mlp --cluster cpu:8 --constraints axis.json", "has no axis 'no ax"),
        ("plan zoo:mlp --cluster cpu:8 --constraints all.json", "has no axis 'no axis"),
        ("plan zoo:mlp --cluster cpu:8 --constraints stranger.json", "matches no"),
        ("plan zoo:mlp --cluster cpu:8 -o /nowhere/at/all", "cannot be written"),
        ("explain none.json", "cannot be read"),
        ("explain short.json", "not readable as JSON"),
        ("explain list.json", "this JSON is not a plan"),
        ("explain plan.json stranger", "value named 'stranger'"),
        ("explain plan.json stranger*", "value named 'stranger*'"),
        ("diff plan.json none.json", "cannot be read"),
        ("export zoo:mlp -o /nowhere/at/all", "cannot be written"),
        ("run zoo:mlp --cluster 8xh100", "needs gpu devices"),
        ("run zoo:mlp --cluster cpu:8 --steps 0", "'--steps'"),
        ("run zoo:mlp --cluster cpu:8 --inputs none.npz", "no arrays can be read"),
        ("serve --tls-cert cert.pem", "go together"),
        ("serve --tls-cert cert.pem --tls-key key.pem", "cannot be read"),
        ("serve --listen 0.0.0.0:0", "without TLS and tokens"),
        ("serve --token-file none", "the token file cannot be read"),
        ("serve --cluster zz", "no preset 'zz'"),
        ("serve --session-ttl nan", "a session lease of nan s"),
        ("status nowhere", "'nowhere' is not host:port"),
        ("status 127.0.0.1:1 --tls-ca none", "the certificate cannot be read"),
    ],
)
def test_wrong_usage_ends_with_two_and_three_lines(
    folder: Path, command: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.chdir(folder):
        assert run(command.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    check_three_lines(captured.err, problem)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (f"plan {PROGRAM} --cluster cpu:4 --memory-limit 1KiB", "memory"),
        ("status 127.0.0.1:1", "127.0.0.1:1 cannot be reached"),
    ],
)
def test_what_fails_ends_with_one_and_three_lines(
    command: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command.split()) == 1
    check_three_lines(capsys.readouterr().err, problem)


def check_three_lines(text: str, problem: str) -> None:
    """Problem, where and hint; on a slow machine lines of progress may go before."""
    *progress, error, where, hint = text.splitlines()
    assert all(line.startswith("planning: ") for line in progress)
    assert error.startswith("error: ")
    assert problem in error
    assert where.startswith("  at: ")
    assert hint.startswith("  hint: ")
