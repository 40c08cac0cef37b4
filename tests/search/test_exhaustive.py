"""Every plan of hundreds of tiny programs is tried: none is cheaper than O2's."""

from dataclasses import dataclass
from itertools import cycle

import numpy as np
import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.plans.types import Options, Plan
from tepdist.program.roles import Roles
from tepdist.sharding import Mesh

MESHES = ("2", "4", "2x2")
NUM_SEEDS = 260
MIN_PROGRAMS = 200
MAX_ASSIGNMENTS = 1_000_000
EXACT = 1 - 1e-6  # the solver works on integers
NUM_SAMPLES = 100  # of the peaks of random assignments, to choose a limit


@dataclass(frozen=True)
class Case:
    """A program on a mesh, and the cost of its every assignment.

    Attributes:
        seed: It is made from.
        roles: Of the program.
        space: Of the program on the mesh.
        costs: [values of variable 0, values of variable 1, ...].
    """

    seed: int
    roles: Roles
    space: object
    costs: np.ndarray

    def best_plan(self, memory_limit_bytes: int | None = None) -> Plan:
        mesh = self.space.problem.pricing.mesh
        return compile_plan(
            self.space.program,
            self.roles,
            parse_cluster(f"cpu:{mesh.num_devices}"),
            options=Options(mesh=mesh, memory_limit_bytes=memory_limit_bytes),
        )

    def peak(self, index: int) -> float:
        return self.space.peak(
            tuple(int(v) for v in np.unravel_index(index, self.costs.shape))
        )

    def cheaper_than(self, cost: float) -> list[int]:
        """Assignments that cost less, cheapest first."""
        flat = self.costs.ravel()
        (found,) = np.nonzero(flat < cost * EXACT)
        return found[np.argsort(flat[found])].tolist()

    def binding_limit(self, free: Plan) -> int | None:
        """A limit that the best plan without one overflows and another keeps."""
        random = np.random.default_rng(self.seed)
        sample = random.integers(self.costs.size, size=NUM_SAMPLES)
        least = min(self.peak(int(index)) for index in sample)
        peak = free.stages[0].memory.peak
        return int((least + peak) / 2) if least < peak - 1 else None


@pytest.fixture(scope="module")
def cases(tiny_program, space_of) -> list[Case]:
    found = []
    for seed, mesh in zip(range(NUM_SEEDS), cycle(MESHES), strict=False):
        program, roles = tiny_program(seed)
        space = space_of(program, roles, Mesh.parse(mesh))
        if space.num_assignments <= MAX_ASSIGNMENTS:
            found.append(Case(seed, roles, space, space.costs()))
    return found


def test_enough_programs_are_small_enough(cases):
    assert len(cases) >= MIN_PROGRAMS
    assert {case.space.problem.pricing.mesh for case in cases} == {
        Mesh.parse(mesh) for mesh in MESHES
    }
    # Not all of them trivial: in most, sharding something pays.
    sharded = [case for case in cases if case.costs.argmin() != 0]
    assert len(sharded) > len(cases) / 2


def test_nothing_is_cheaper_than_the_best_plan(cases):
    for case in cases:
        search = case.best_plan().search
        assert not case.cheaper_than(search.cost_s), case.seed
        assert search.lower_bound_s <= search.cost_s, case.seed


def test_a_plan_costs_what_the_search_says(cases):
    for case in cases:
        plan = case.best_plan()
        assert plan.search.cost_s == pytest.approx(plan.predicted.step_time_s)


def test_nothing_that_fits_is_cheaper_than_the_best_plan_within_a_limit(cases):
    num_limited = 0
    for case in cases:
        limit = case.binding_limit(case.best_plan())
        if limit is None:
            continue
        num_limited += 1
        plan = case.best_plan(limit)
        assert plan.predicted.memory_per_device_bytes <= limit, case.seed
        assert plan.search.lower_bound_s <= plan.search.cost_s, case.seed
        fitting = [
            index
            for index in case.cheaper_than(plan.search.cost_s)
            if case.peak(index) <= limit
        ]
        assert not fitting, case.seed
    assert num_limited >= MIN_PROGRAMS / 2
