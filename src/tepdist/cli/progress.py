"""Progress on standard error: a bar on a terminal, lines in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Report = Callable[[str, float], None]

# Shorter work needs no progress.
PATIENCE_S = 2.0


@contextmanager
def shown_progress(title: str, *, quiet: bool) -> Iterator[Report]:
    """Shows how far some work is; yields ``report(phase, share done)``."""
    console = Console(stderr=True)
    if quiet:
        yield lambda _phase, _share: None
    elif not console.is_terminal:
        yield _line_report(title, console)
    else:
        with _new_bar(console) as bar:
            task = bar.add_task(title, total=1.0, phase="")
            yield lambda phase, share: bar.update(task, phase=phase, completed=share)


def _new_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[phase]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def _line_report(title: str, console: Console) -> Report:
    began = time.monotonic()
    said = began

    def report(phase: str, share: float) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= PATIENCE_S:
            said = now
            console.print(f"{title}: {phase}, {share:.0%}, {now - began:.0f} s")

    return report
