"""`tepdist doctor`: what is here, what is not, and what will not work for it."""

import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass

import click
import jax
from rich.console import Console
from rich.text import Text

from tepdist import __version__
from tepdist.report.terminal import facts, new_table

BASE = (
    "jax",
    "jaxlib",
    "numpy",
    "optax",
    "pytoulbar2",
    "grpcio",
    "protobuf",
    "orbax-checkpoint",
)


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional part of the installation.

    Attributes:
        name: As in ``pip install tepdist[NAME]``.
        packages: What it brings; all are needed.
        purpose: What does not work without it.
    """

    name: str
    packages: tuple[str, ...]
    purpose: str


EXTRAS = (
    Extra("flax", ("flax",), "training states of flax modules"),
    Extra(
        "cuda13", ("jax-cuda13-plugin", "nvidia-nccl-cu13"), "running on NVIDIA GPUs"
    ),
    Extra(
        "gpu-check",
        ("jax-cuda13-plugin", "jax-cuda13-pjrt"),
        "verifying plans for NVIDIA GPUs",
    ),
)


@click.command()
def doctor() -> None:
    """Say what is installed and what will not work, and why."""
    console = Console()
    console.print(facts(_platform_rows()))
    table = new_table("package", "version", "verdict")
    for package in BASE:
        version = _version(package)
        verdict = (
            "ok" if version else "missing: tepdist will not work; install it again"
        )
        table.add_row(package, version or "-", verdict)
    for extra in EXTRAS:
        versions, verdict = _check_extra(extra)
        table.add_row(Text(f"[{extra.name}]"), versions, Text(verdict))
    console.print()
    console.print(table)


def _platform_rows() -> tuple[tuple[str, str], ...]:
    try:
        devices = jax.devices()
        kinds = sorted({device.device_kind for device in devices})
        found = f"{len(devices)} x {', '.join(kinds)} ({devices[0].platform})"
    except RuntimeError as error:
        found = f"none: {error}"
    return (
        ("tepdist", __version__),
        ("python", f"{platform.python_version()} at {sys.executable}"),
        ("system", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"),
        ("devices", found),
        (
            "virtual",
            "--cluster cpu:N makes N virtual CPU devices in run and serve",
        ),
    )


def _check_extra(extra: Extra) -> tuple[str, str]:
    versions = [_version(package) for package in extra.packages]
    missing = [
        package
        for package, version in zip(extra.packages, versions, strict=True)
        if version is None
    ]
    if not missing:
        return ", ".join(version for version in versions if version), "ok"
    return "-", (
        f"no {extra.purpose}: {', '.join(missing)} not installed; "
        f"pip install 'tepdist[{extra.name}]'"
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
