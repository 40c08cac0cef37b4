"""A planned program computes what one device computes, by the collectives priced.

Two plans of each program: the best, and one that no search would choose. Long
campaigns of the same: ``benchmarks/fuzz.py``.
"""

import numpy as np
import pytest

from tepdist.errors import OptionsError
from tepdist.runtime.local import Executable

from . import laws
from .models import all_cases
from .programs import Case, random_case

ANY_SEEDS = range(16)
PLACED_SEEDS = range(2000, 2004)
PLAIN_SEEDS = range(1000, 1006)
# What XLA's CPU compiler does in another element type, or what a plan cannot know:
# half precision is moved as f32, the results of an empty program need no arguments.
UNPRICED = ("scaled-loss", "half", "empty")


def assert_planned_runs_agree(case: Case, seed: int) -> None:
    mesh = laws.MESHES[seed % len(laws.MESHES)]
    traced, best = laws.plan_case(case, mesh)
    wanted = laws.one_device_results(case)
    for plan in (best, laws.odd_plan(best, seed)):
        executable = Executable(plan)
        got = laws.planned_results(traced, executable, case)
        assert list(laws.differences(case, wanted, got)) == []
        if plan is best and case.name not in UNPRICED:
            assert list(laws.byte_differences(plan, executable)) == []


@pytest.mark.parametrize(
    ("number", "case"), enumerate(all_cases()), ids=[c.name for c in all_cases()]
)
def test_what_users_write_runs_as_on_one_device(number: int, case: Case) -> None:
    assert_planned_runs_agree(case, number)


@pytest.mark.parametrize("seed", ANY_SEEDS)
def test_random_programs_run_as_on_one_device(seed: int) -> None:
    case = random_case(seed)
    mesh = laws.MESHES[seed % len(laws.MESHES)]
    traced, best = laws.plan_case(case, mesh)
    wanted = laws.one_device_results(case)
    for plan in (best, laws.odd_plan(best, seed)):
        got = laws.planned_results(traced, Executable(plan), case)
        assert list(laws.differences(case, wanted, got)) == []


@pytest.mark.parametrize("seed", PLACED_SEEDS)
def test_programs_that_state_shardings_run_as_under_plain_jit(seed: int) -> None:
    mesh = laws.MESHES[seed % len(laws.MESHES)]
    case = random_case(seed, steps="placed", mesh=mesh)
    traced, best = laws.plan_case(case, mesh)
    got = laws.planned_results(traced, Executable(best), case)
    assert list(laws.differences(case, laws.one_device_results(case), got)) == []


@pytest.mark.parametrize("seed", PLAIN_SEEDS)
def test_odd_plans_of_plain_programs_move_what_is_priced(seed: int) -> None:
    """Products, sums, reshapes and transposes under random shardings."""
    case = random_case(seed, steps="common")
    _, best = laws.plan_case(case, "2x4")
    plan = laws.odd_plan(best, seed)
    differences = list(laws.byte_differences(plan, Executable(plan)))
    # Two permutes in a row are one for the compiler.
    assert [text for text in differences if not text.startswith("coll")] == []


@pytest.mark.parametrize("seed", range(4))
def test_constrained_arguments_lie_as_asked(seed: int) -> None:
    case = random_case(seed, steps="common")
    rng = np.random.default_rng(seed)
    constraints = laws.random_constraint(case, "2x4", rng)
    try:
        traced, plan = laws.plan_case(case, "2x4", constraints=constraints)
    except OptionsError:
        pytest.skip("no way to compute it gives that sharding")
    ((name, dims),) = constraints.items()
    assert plan.argument_shardings()[name].dims == dims
    got = laws.planned_results(traced, Executable(plan), case)
    assert list(laws.differences(case, laws.one_device_results(case), got)) == []
