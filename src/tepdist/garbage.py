"""Python's collector of cyclic garbage, kept out of the way."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Leaves cyclic garbage alone while millions of small objects are made.

    Reading and searching make no cycles worth collecting; looking for them took 3 of
    11 s of a 96-layer GPT's search (2 cores, 2026-11).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
