"""A client in another language: here a script that has only the stubs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tepdist.frontends.jax import trace
from tepdist.program.export import export_program
from tepdist.service import protocol
from tepdist.service.server import Server

from .models import batch_mlp, init_mlp, step_mlp

SCRIPT = Path(__file__).parent / "stubs_only.py"


def test_a_script_with_only_the_stubs_gets_the_same_losses(server: Server, tmp_path):
    state, batch = init_mlp(jax.random.key(0)), batch_mlp(0)
    traced = trace(step_mlp, (state, batch), {})
    program = tmp_path / "step.mlir"
    export_program(traced.read(), traced.roles, program)
    for index, array in enumerate(traced.flatten((state, batch), {})):
        (tmp_path / f"{index}.bin").write_bytes(np.asarray(array).tobytes())
    folder = Path(protocol.__file__).parent
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, SCRIPT, folder, server.address, program, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    expected = []
    for _ in range(3):
        state, loss = jax.jit(step_mlp)(state, batch)
        expected.append(float(loss))
    assert json.loads(done.stdout) == pytest.approx(expected, rel=1e-4)
