"""Machine, versions and commit: what a figure is worth without them is little."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def machine_lines() -> list[str]:
    """Machine, versions and commit, for the record."""
    return [
        f"machine  {processor()}, {os.cpu_count()} cores, load {load_text()} before",
        f"python   {platform.python_version()}, jax {version('jax')}",
        f"commit   {commit()}",
    ]


def processor() -> str:
    """The processor's model, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.machine()


def commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def load_text() -> str:
    """Load of the last minute: others' work makes the figures worth less."""
    return f"{os.getloadavg()[0]:.1f}"
