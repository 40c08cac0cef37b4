"""The command as a process: start-up, standard output, a server and its status."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

import tepdist
from tepdist.cli.main import run

SOURCE = os.path.dirname(os.path.dirname(tepdist.__file__))


def environment() -> dict[str, str]:
    """Ours without the tests' devices: the command sets up its own."""
    kept = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    return {**kept, "PYTHONPATH": SOURCE}


def tepdist_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "tepdist", *arguments),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=False,
    )


def test_the_command_starts_without_jax() -> None:
    code = "import sys; from tepdist.cli.main import run; run(['--help'])"
    check = code + "; sys.exit('jax' in sys.modules)"
    done = subprocess.run(
        (sys.executable, "-c", check), env=environment(), timeout=60, check=False
    )
    assert done.returncode == 0


def test_run_makes_the_virtual_devices_it_needs() -> None:
    program = "zoo:mlp:layers=2,width=16,batch=8"
    done = tepdist_process("run", program, "--cluster", "cpu:8", "--steps", "2")
    assert done.returncode == 0, done.stderr
    assert "2 steps, median" in done.stdout


@pytest.fixture
def server() -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = (sys.executable, "-m", "tepdist", "serve", "--listen", "127.0.0.1:0")
    with subprocess.Popen(
        (*command, "--cluster", "cpu:2"),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving cpu:2 on 127.0.0.1:")
        yield process, line.split()[-1]
        process.kill()


def test_a_server_shows_its_sessions_and_stops_on_request(
    server: tuple["subprocess.Popen[str]", str], capsys: pytest.CaptureFixture[str]
) -> None:
    process, address = server
    with tepdist.connect(address):
        assert run(["status", address]) == 0
    text = capsys.readouterr().out
    assert "cpu:2" in text
    assert f"tepdist {tepdist.__version__}, cpu:2" in text
    assert "1 session\n" in text
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert process.stdout is not None
    assert process.stdout.read() == "stopped\n"
