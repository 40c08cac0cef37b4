"""`tepdist calibrate` in a process of its own: what it writes is planned with."""

import subprocess
import sys
from pathlib import Path

import pytest

from tepdist.cli.main import USAGE, run
from tepdist.cluster.model import COLLECTIVE_KINDS
from tepdist.cluster.presets import parse_cluster


def test_what_calibrate_writes_is_a_cluster_to_plan_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lab.toml"
    options = ("--devices", "2", "--time-limit", "1", "--dtype", "f32")
    subprocess.run(
        [sys.executable, "-m", "tepdist", "calibrate", "-o", str(file), *options],
        check=True,
        capture_output=True,
    )
    cluster = parse_cluster(str(file))
    (level,) = cluster.levels
    assert (cluster.num_devices, cluster.device.platform) == (2, "cpu")
    assert {each.kind for each in level.measured} == set(COLLECTIVE_KINDS)
    assert cluster.device.flops_per_s["f32"] > 1e8
    assert cluster.combines_bytes >= 0
    program = "zoo:mlp:layers=2,width=16,batch=8"
    assert run(["plan", program, "--cluster", str(file)]) == 0
    assert "lab" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing" / "lab.toml"
    assert run(["calibrate", "-o", str(missing)]) == USAGE
    assert "there is no folder" in capsys.readouterr().err
