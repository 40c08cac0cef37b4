"""Writes a program for others: a portable artifact with its roles beside it."""

from pathlib import Path

from tepdist.program import module as modules
from tepdist.program.graph import Program
from tepdist.program.roles import Roles
from tepdist.program.sidecar import check_roles, roles_to_json, sidecar_path
from tepdist.program.sums import inline_sums


def portable_artifact(program: Program, *, version: str | None = None) -> bytes:
    """The program as a StableHLO portable artifact.

    Args:
        program: What to write.
        version: StableHLO version, e.g. ``1.13.7``: what the reader knows. None for
            one that readers of the last 12 weeks know.

    Raises:
        ProgramError: if that version cannot say what the program does.
    """
    with modules.new_context():
        module = modules.parse(program.module)
        inline_sums(module)
        return modules.write_portable(module, version or modules.portable_version())


def export_program(
    program: Program, roles: Roles, path: Path, *, version: str | None = None
) -> None:
    """Writes the portable artifact to `path` and the roles to its sidecar.

    Raises:
        ProgramError: if that StableHLO version cannot say what the program does.
        RolesError: if the roles do not match the program.
    """
    check_roles(program, roles)
    artifact = portable_artifact(program, version=version)
    path.write_bytes(artifact)
    sidecar_path(path).write_text(roles_to_json(roles), encoding="utf-8")
