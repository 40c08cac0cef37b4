"""Plans in files."""

from pathlib import Path

from tepdist.errors import PlanError
from tepdist.plans.json import from_json, to_json
from tepdist.plans.types import Plan


def save(plan: Plan, path: str | Path) -> None:
    """Writes the plan as JSON.

    Raises:
        PlanError: if the file cannot be written.
    """
    try:
        Path(path).write_text(to_json(plan), encoding="utf-8")
    except OSError as error:
        raise PlanError(
            f"the plan cannot be written: {error.strerror}",
            where=str(path),
            hint="name a file in a folder that exists and may be written to",
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
            f"the plan cannot be read: {error.strerror}",
            where=str(path),
            hint="give a file that `tepdist plan -o FILE` wrote",
        ) from None
    except UnicodeDecodeError:
        raise PlanError(
            "the plan is not text", where=str(path), hint="a plan is a JSON file"
        ) from None
    try:
        return from_json(text)
    except PlanError as error:
        where = f"{path}, {error.where}" if error.where else str(path)
        hint = error.hint or "the file was edited or damaged; plan again"
        raise PlanError(error.problem, where=where, hint=hint) from None
