"""Predicted against compiled, as rich renderables."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from tepdist.report.terminal import facts, new_table
from tepdist.report.units import bytes_text, percent_text, seconds_text
from tepdist.runtime.verification import CollectiveCheck, StageCheck


def verification_screen(checks: Sequence[StageCheck]) -> RenderableType:
    """Every stage's memory, collectives and overlap."""
    return Group(*(part for check in checks for part in _stage(check)))


def difference_text(predicted: float, compiled: float) -> str:
    """How far a prediction is off.

    >>> difference_text(110, 100), difference_text(99, 100), difference_text(5, 0)
    ('+10 %', '-1.0 %', 'not compiled')
    """
    if predicted == compiled:
        return "equal"
    if compiled == 0:
        return "not compiled"
    share = predicted / compiled - 1
    return ("+" if share > 0 else "") + percent_text(share)


def _stage(check: StageCheck) -> list[RenderableType]:
    table = new_table(
        f"stage {check.index}, per device",
        "predicted",
        "compiled",
        "off",
        "hidden",
        numbers=("predicted", "compiled", "off", "hidden"),
    )
    peak = check.compiled_peak_bytes
    table.add_row(
        "peak memory",
        bytes_text(check.predicted_peak_bytes),
        "not said" if peak is None else bytes_text(peak),
        "" if peak is None else difference_text(check.predicted_peak_bytes, peak),
        "",
    )
    for each in check.collectives:
        table.add_row(*_cells(each))
    exposed = facts(
        (
            (
                "exposed",
                f"{seconds_text(check.predicted_exposed_s)} of communication "
                f"predicted, {seconds_text(check.compiled_exposed_s)} in the compiled "
                "schedule",
            ),
        )
    )
    return [table, Text(), exposed]


def _cells(each: CollectiveCheck) -> tuple[str, ...]:
    compiled = each.compiled_bytes
    return (
        each.kind.replace("_", "-"),
        bytes_text(each.predicted_bytes),
        bytes_text(compiled),
        difference_text(each.predicted_bytes, compiled),
        percent_text(each.overlap.hidden / compiled) if compiled else "",
    )
