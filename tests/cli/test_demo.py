"""The demo's own measure: its runs, and what it calls the same."""

from collections.abc import Iterator

import jax
import numpy as np
import pytest

from tepdist.demo.comparison import LeafDifference, compare_states, verdicts
from tepdist.demo.training import Run, train_alone, train_in_double, train_on_server
from tepdist.zoo.entries import build

STEPS = 3
PROGRAM = build("gpt:layers=1,hidden=16,heads=2,seq=8,batch=16,tied=false")


def silent(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def alone() -> Run:
    return train_alone(PROGRAM, STEPS, report=silent)


@pytest.fixture
def restored_types() -> Iterator[None]:
    yield
    jax.config.update("jax_enable_x64", False)


def test_a_run_is_the_same_as_itself(alone: Run) -> None:
    leaves = compare_states(alone, alone)
    assert len(leaves) == len(jax.tree.leaves(alone.state))
    assert {leaf.distance for leaf in leaves} == {0.0}
    claims = list(verdicts(alone, alone, leaves).values())
    assert claims == [True, True, False]  # three steps do not learn


def test_training_through_the_server_is_the_same_as_alone(alone: Run) -> None:
    plan, planned = train_on_server(PROGRAM, STEPS, planning=silent, report=silent)
    assert plan.cluster.num_devices == 8
    assert np.allclose(planned.losses, alone.losses, rtol=1e-5)
    assert all(leaf.is_same for leaf in compare_states(planned, alone))


@pytest.mark.usefixtures("restored_types")
def test_double_precision_is_near_and_not_the_same(alone: Run) -> None:
    double = train_in_double(PROGRAM, STEPS, report=silent)
    assert np.allclose(double.losses, alone.losses, rtol=1e-4)
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(double.state)}
    assert dtypes == {"float64", "int32"}
    assert any(leaf.distance > 0 for leaf in compare_states(double, alone))


@pytest.mark.parametrize(
    ("distance", "rounding", "same"),
    [
        (1e-3, None, True),
        (2e-3, None, False),
        (2e-3, 1e-3, True),
        (5e-3, 1e-3, False),
        (np.nan, 1.0, False),
    ],
)
def test_a_leaf_is_the_same_within_a_share_or_within_rounding(
    distance: float, rounding: float | None, *, same: bool
) -> None:
    leaf = LeafDifference("w", distance, magnitude=1.0, rounding=rounding)
    assert leaf.is_same is same


def test_a_changed_loss_is_told(alone: Run) -> None:
    first, *rest = alone.losses
    changed = Run((first * 1.001, *rest), alone.seconds, alone.state)
    claims = verdicts(changed, alone, compare_states(alone, alone))
    assert next(iter(claims.values())) is False
