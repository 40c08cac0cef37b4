"""Whether two runs are the same: every loss, and every leaf of the last state."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from tepdist.demo.training import Run

LOSS_TOLERANCE = 1e-4
LEAF_TOLERANCE = 1e-3
# Times the distance of one device's f32 from its own f64.
ROUNDING_TOLERANCE = 4.0
WANTED_NATS_PER_BYTE = 2.6
LAST = 10


@dataclass(frozen=True, slots=True)
class LeafDifference:
    """How far one leaf of the state is from one device's.

    Attributes:
        name: Path in the tree.
        distance: Largest difference of an element.
        magnitude: Largest magnitude of one device's leaf.
        rounding: Distance of one device's f32 from its own f64; None if not known.
    """

    name: str
    distance: float
    magnitude: float
    rounding: float | None = None

    @property
    def relative(self) -> float:
        """Distance as a share of the magnitude."""
        if self.magnitude == 0:
            return 0.0 if self.distance == 0 else float("inf")
        return self.distance / self.magnitude

    @property
    def is_same(self) -> bool:
        """Whether no more than rounding tells the two apart."""
        allowed = LEAF_TOLERANCE * self.magnitude
        return self.distance <= max(allowed, ROUNDING_TOLERANCE * (self.rounding or 0))


def compare_states(
    planned: Run, alone: Run, double: Run | None = None
) -> tuple[LeafDifference, ...]:
    """Every leaf's distance from one device's, farthest first."""
    paths = jax.tree_util.tree_leaves_with_path(alone.state)
    mine = jax.tree.leaves(planned.state)
    exact = [None] * len(mine) if double is None else jax.tree.leaves(double.state)
    found = [
        LeafDifference(
            name=jax.tree_util.keystr(path, simple=True, separator="/"),
            distance=_distance(leaf, ours),
            magnitude=float(np.max(np.abs(leaf))),
            rounding=None if precise is None else _distance(leaf, precise),
        )
        for (path, leaf), ours, precise in zip(paths, mine, exact, strict=True)
    ]
    return tuple(sorted(found, key=lambda leaf: -leaf.relative))


def loss_difference(planned: Run, alone: Run) -> float:
    """Largest relative difference of a step's loss."""
    pairs = zip(planned.losses, alone.losses, strict=True)
    return max(abs(mine - other) / abs(other) for mine, other in pairs)


def final_loss(run: Run) -> float:
    """Mean of the last losses [nats per byte]."""
    return float(np.mean(run.losses[-LAST:]))


def verdicts(
    planned: Run, alone: Run, leaves: tuple[LeafDifference, ...]
) -> dict[str, bool]:
    """What the demo claims, each with whether it holds."""
    difference = loss_difference(planned, alone)
    final = final_loss(planned)
    return {
        f"losses of all {len(planned.losses)} steps within {difference:.1e} of one "
        f"device (allowed {LOSS_TOLERANCE:.0e})": difference <= LOSS_TOLERANCE,
        _leaves_claim(leaves): all(leaf.is_same for leaf in leaves),
        f"mean loss of the last {LAST} steps {final:.3f} nats per byte "
        f"(wanted below {WANTED_NATS_PER_BYTE})": final < WANTED_NATS_PER_BYTE,
    }


def _leaves_claim(leaves: tuple[LeafDifference, ...]) -> str:
    far = [leaf for leaf in leaves if leaf.relative > LEAF_TOLERANCE]
    claim = (
        f"all {len(leaves)} leaves of the state within {leaves[0].relative:.1e} of "
        f"their magnitude, farthest {leaves[0].name} (allowed {LEAF_TOLERANCE:.0e}"
    )
    if not far:
        return f"{claim})"
    times = max(
        leaf.distance / leaf.rounding if leaf.rounding else float("inf") for leaf in far
    )
    return (
        f"{claim}, or {ROUNDING_TOLERANCE:.0f} times one device's own distance from "
        f"f64: {len(far)} leaves at most {times:.1f} times)"
    )


def _distance(left: Any, right: Any) -> float:
    return float(np.max(np.abs(np.subtract(left, right, dtype=np.float64))))
