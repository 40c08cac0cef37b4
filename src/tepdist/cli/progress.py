"""Progress on standard error: a bar on a terminal, lines in a log."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Report = Callable[[str, float], None]

# Work shorter than the first needs no line; long work needs one now and then.
FIRST_LINE_S = 2.0
NEXT_LINES_S = 10.0


@contextmanager
def shown_progress(title: str, *, quiet: bool) -> Iterator[Report]:
    """Shows how far some work is; yields ``report(phase, share done)``."""
    console = Console(stderr=True)
    if quiet:
        yield lambda _phase, _share: None
    elif console.file.isatty():  # colours may be forced in a log, a bar may not
        with _new_bar(console) as bar:
            task = bar.add_task(title, total=1.0, phase="")
            yield lambda phase, share: bar.update(task, phase=phase, completed=share)
    else:
        with _timed_lines(title, console) as report:
            yield report


def _new_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[phase]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


@contextmanager
def _timed_lines(title: str, console: Console) -> Iterator[Report]:
    """Says where the work is from a thread, for a phase may be long and silent."""
    began = time.monotonic()
    latest = ["starting"]
    done = threading.Event()

    def say() -> None:
        for wait_s in itertools.chain([FIRST_LINE_S], itertools.repeat(NEXT_LINES_S)):
            if done.wait(wait_s):
                return
            passed_s = time.monotonic() - began
            console.print(f"{title}: {latest[0]}, {passed_s:.0f} s", highlight=False)

    def report(phase: str, share: float) -> None:
        latest[0] = f"{phase} {share:.0%}" if share else phase

    thread = threading.Thread(target=say, name="tepdist-progress", daemon=True)
    thread.start()
    try:
        yield report
    finally:
        done.set()
        thread.join()
