"""Programs from files, with the roles that lie beside them."""

from pathlib import Path

from tepdist.errors import ProgramError, RolesError, located
from tepdist.program.graph import Program
from tepdist.program.infer import infer_roles
from tepdist.program.preparation import Preparation
from tepdist.program.reader import name_arguments, read_program
from tepdist.program.roles import Roles
from tepdist.program.sidecar import check_roles, roles_from_json, sidecar_path


def load(
    path: Path | str,
    roles_path: Path | str | None = None,
    *,
    started: Preparation | None = None,
) -> tuple[Program, Roles]:
    """The program in a file and its roles.

    The roles are those of `roles_path`, else of ``FILE.roles.json`` if there is one,
    else what the module says about aliasing, else guessed from shapes.

    Args:
        path: StableHLO or HLO in any form; recognised by content.
        roles_path: Sidecar to use instead of the one beside the file.
        started: A child that has begun to read the file.

    Raises:
        ProgramError: if the file cannot be read or holds no program we can plan.
        RolesError: if the sidecar cannot be read or does not match the program.
    """
    path = Path(path)
    data = _read(path) if started is None else started
    program, stated = read_program(data, name=path.name, isolated=True)
    sidecar = Path(roles_path) if roles_path is not None else sidecar_path(path)
    if roles_path is None and not sidecar.exists():
        return program, stated or infer_roles(program)
    roles = _read_sidecar(sidecar)
    with located(str(sidecar)):
        check_roles(program, roles)
    names = tuple(argument.name for argument in roles.arguments)
    return name_arguments(program, names), roles


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProgramError(
            f"cannot read the program: {error.strerror}",
            where=str(path),
            hint="give a file that exists and may be read",
        ) from None


def _read_sidecar(path: Path) -> Roles:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise RolesError(
            f"cannot read the roles: {problem}",
            where=str(path),
            hint="without a sidecar, roles are inferred from the program",
        ) from None
    return roles_from_json(text, where=str(path))
