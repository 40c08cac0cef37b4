"""What is said where no plan fits."""

from collections.abc import Sequence

from tepdist.errors import NoPlanFits
from tepdist.search.candidates import Candidate


def nothing_fits(candidates: Sequence[Candidate], limit: float) -> NoPlanFits:
    """The error that says what binds and by how much.

    Args:
        candidates: Some of them answered.
        limit: Of the memory of one device [B].
    """
    least = min(c.least_peak for c in candidates)
    answered = [(c.mesh, c.outcome.peak) for c in candidates if c.outcome is not None]
    mesh, peak = min(answered, key=lambda pair: pair[1])
    if least > limit:
        problem = (
            f"no plan fits: the memory limit of {_size(limit)} per device binds; with "
            f"every tensor cut as far as it goes {_size(least)} are needed, "
            f"{_size(least - limit)} more"
        )
    else:
        problem = (
            f"no plan was found within the memory limit of {_size(limit)} per device; "
            f"the least found needs {_size(peak)}, {_size(peak - limit)} more"
        )
    return NoPlanFits(
        problem,
        where=f"mesh {mesh}",
        hint="raise the limit, use more devices, or shrink the batch",
    )


def _size(bytes_: float) -> str:
    for exponent, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if bytes_ >= 2**exponent:
            return f"{bytes_ / 2**exponent:.3f} {unit}"
    return f"{bytes_:.0f} bytes"
