"""A program's identity: what it computes and what its arguments are for."""

import hashlib

from tepdist.program import module as modules
from tepdist.program.graph import Program
from tepdist.program.roles import Roles
from tepdist.program.sidecar import roles_to_json


def fingerprint(program: Program, roles: Roles) -> str:
    """SHA-256 of the normalised bytecode and the roles' canonical JSON, in hex."""
    digest = hashlib.sha256()
    for part in (program.module, roles_to_json(roles, indent=None).encode()):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def compute_alike(left: Program, right: Program) -> bool:
    """Whether two programs are the same but for names and where they were written."""
    with modules.new_context():
        texts = {str(modules.parse(program.module)) for program in (left, right)}
    return len(texts) == 1
