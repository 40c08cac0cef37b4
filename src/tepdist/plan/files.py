"""Plans in files."""

from pathlib import Path

from tepdist.errors import PlanError
from tepdist.plan.json import from_json, to_json
from tepdist.plan.types import Plan


def save(plan: Plan, path: str | Path) -> None:
    """Writes the plan as JSON.

    Raises:
        PlanError: if the file cannot be written.
    """
    try:
        Path(path).write_text(to_json(plan), encoding="utf-8")
    except OSError as error:
        raise PlanError(
            f"the plan cannot be written: {error.strerror}", where=str(path)
        ) from None


def load(path: str | Path) -> Plan:
    """Reads a plan that `save` wrote.

    Raises:
        PlanError: if the file cannot be read or holds no plan of this version.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise PlanError(
            f"the plan cannot be read: {error.strerror}", where=str(path)
        ) from None
    except UnicodeDecodeError:
        raise PlanError(
            "the plan is not text", where=str(path), hint="a plan is a JSON file"
        ) from None
    try:
        return from_json(text)
    except PlanError as error:
        where = f"{path}, {error.where}" if error.where else str(path)
        raise PlanError(error.problem, where=where, hint=error.hint) from None
