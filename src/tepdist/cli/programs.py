"""PROGRAM arguments: files and built-in programs.

Files are planned without JAX, which is imported for built-in programs only. Nothing
heavy is imported before a child has begun to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tepdist.errors import ProgramError, located
from tepdist.program.preparation import Preparation, preparing

if TYPE_CHECKING:
    from tepdist.cluster.model import Cluster
    from tepdist.program.graph import Program
    from tepdist.program.roles import Roles
    from tepdist.zoo.program import ZooProgram

ZOO = "zoo:"


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """A program with its roles, wherever it came from.

    Attributes:
        program: Normalised.
        roles: Of its arguments and results.
        built_in: What made it, if it is of the zoo: it can make real inputs.
    """

    program: Program
    roles: Roles
    built_in: ZooProgram | None = None


@contextmanager
def reading(text: str) -> Iterator[Preparation | None]:
    """Starts to read the program that a PROGRAM argument names, if it is a file."""
    path = Path(text)
    if text.startswith(ZOO) or not path.is_file():
        yield None
        return
    try:
        file = path.open("rb")
    except OSError:
        yield None  # who loads it says what is wrong
        return
    with file, preparing(file) as started:
        yield started


def load_program(
    text: str,
    cluster: Cluster | None = None,
    *,
    started: Preparation | None = None,
) -> LoadedProgram:
    """The program that a PROGRAM argument names.

    Args:
        text: A file, or ``zoo:...``.
        cluster: Where it shall run; None if that is open.
        started: A child that has begun to read the file.

    Raises:
        ProgramError: if there is no such file or it is no program.
        RolesError: if its sidecar does not fit it.
        OptionsError: for an unknown built-in program or key.
    """
    if text.startswith(ZOO):
        return _built_in(text, cluster)
    path = Path(text)
    if not path.exists():
        raise ProgramError(
            f"there is no program file {text!r}",
            where="PROGRAM",
            hint=f"built-in programs start with {ZOO}; `tepdist zoo` lists them",
        )
    from tepdist.frontends import files

    program, roles = files.load(path, started=started)
    return LoadedProgram(program, roles)


def _built_in(text: str, cluster: Cluster | None) -> LoadedProgram:
    from tepdist.frontends.jax import trace
    from tepdist.zoo.entries import build

    with located(text):
        built_in = build(text.removeprefix(ZOO))
    traced = trace(
        built_in.train_step,
        (built_in.state, built_in.batch),
        {},
        name=built_in.name,
        # For others JAX's own default will do: but for custom calls, which the
        # zoo has none of, the StableHLO is the same.
        platform="cpu" if cluster and cluster.device.platform == "cpu" else None,
    )
    return LoadedProgram(traced.read(), traced.roles, built_in)
