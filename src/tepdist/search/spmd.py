"""The SPMD search: the best sharding of a whole program on one mesh of the cluster.

For each candidate mesh a cost function network is built, solved (O1: descent from a
few starts, and the solver where no descent fits; O2: exactly, for as long as there
is time) and kept within the memory limit. The best mesh of two axes is refined to three
where that pays. The cheapest answer that fits is decoded into a plan.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tepdist.cluster.model import Cluster
from tepdist.cost.pricing import Pricing
from tepdist.errors import NoPlanFits
from tepdist.plans.types import Options, SearchRecord, Stage
from tepdist.program.graph import Program
from tepdist.program.roles import Roles
from tepdist.search.candidates import (
    PROVEN,
    SWEEPS,
    Candidate,
    Question,
    first_answer,
    make_candidate,
)
from tepdist.search.constraints import matched_values
from tepdist.search.cuts import CutSearch
from tepdist.search.limited import Outcome, Prices
from tepdist.search.meshes import candidate_meshes
from tepdist.search.recombination import recombine
from tepdist.search.refinement import refine
from tepdist.search.sharing import SharingSearch
from tepdist.search.staging import make_stage
from tepdist.search.structure import build_structure
from tepdist.solver import child

Progress = Callable[[str, float], None]

# Cuts prove the best answer within memory; an MLP of 29 variables took 3 s, one of 81
# more than 20 s (2 cores, 2026-11).
_MAX_CUT_VARIABLES = 32
# Unless told how long to search, O2 spends no more on limits, all meshes together [s].
_LIMITS_S = 10.0
# Shares: of that for the answer without limits, which may fit after all; of what is
# left then for recombined answers.
_FREE, _RECOMBINING = 0.3, 0.6
# Three axes are for O3 where they take long: 5 of 14 s of a GPT of 425 variables on
# 128x8, for 3.5 % of the step (2 cores, 2026-11).
_MAX_REFINED_VARIABLES = 200
DEFAULT_TIME_LIMIT_S = {"O1": 30.0, "O2": 60.0, "O3": 600.0}


@dataclass(frozen=True, slots=True)
class Found:
    """A stage and how it was found."""

    stage: Stage
    record: SearchRecord


class _Clock:
    """Time left, and where it went."""

    def __init__(self, options: Options) -> None:
        self._start = self._last = time.perf_counter()
        limit = options.time_limit_s
        self._limit = DEFAULT_TIME_LIMIT_S[options.level] if limit is None else limit
        may_take_all = limit is not None or options.level == "O3"
        self._limits_s = self._limit if may_take_all else _LIMITS_S
        self.phases: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @property
    def left(self) -> float:
        return max(self._limit - self.seconds, 0.0)

    def extend(self, seconds: float) -> None:
        """Moves the limit."""
        self._limit += seconds

    def is_over(self) -> bool:
        return self.left <= 0

    def left_for_limits(self, share: float) -> Callable[[], float]:
        """Time left of a share of that for limits, counted from now [s]."""
        end = self.seconds + self._limits_s * share
        return lambda: min(self.left, max(end - self.seconds, 0.0))

    def lap(self, phase: str) -> None:
        """Books the time since the last lap under a phase."""
        now = time.perf_counter()
        self.phases[phase] = now - self._last
        self._last = now


def search(
    program: Program,
    roles: Roles,
    cluster: Cluster,
    *,
    options: Options,
    progress: Progress,
) -> Found:
    """The best stage for the whole program.

    Raises:
        NoPlanFits: if no sharding keeps within the memory limit.
        OptionsError: if a mesh or constraint cannot be honoured.
    """
    clock = _Clock(options)
    if options.level != "O1":
        child.prepare()
    meshes = candidate_meshes(cluster.num_devices, options.mesh, program.mesh)
    progress("analysis", 0.0)
    matched = matched_values(program, options.constraints)
    structure = build_structure(program, roles, matched, device=cluster.device)
    clock.lap("analysis")
    if options.time_limit_s is None:
        # Analysis takes as long as the program is deep: 22 s of O1's 30 for a GPT of
        # 1,024 layers, which left time for one mesh of ten on a loaded machine.
        clock.extend(clock.phases["analysis"])
    question = Question(structure, cluster, options, structure.folded.kept(matched))
    candidates = []
    for number, mesh in enumerate(meshes):
        progress(f"mesh {mesh}", number / len(meshes))
        candidates.append(make_candidate(question, Pricing(cluster, mesh)))
        if clock.is_over():
            break
    is_complete = len(candidates) == len(meshes)
    clock.lap("problems")
    candidates, chosen, stage = _answered(
        question, candidates, clock=clock, progress=progress
    )
    assert chosen.outcome is not None
    bound = min(c.bound for c in candidates)
    record = SearchRecord(
        level=options.level,
        seconds=clock.seconds,
        phases=clock.phases,
        cost_s=chosen.outcome.cost,
        lower_bound_s=min(bound, chosen.outcome.cost) if is_complete else None,
        num_candidates=len(candidates),
    )
    return Found(stage, record)


def _answered(
    question: Question,
    candidates: Sequence[Candidate],
    *,
    clock: _Clock,
    progress: Progress,
) -> tuple[list[Candidate], Candidate, Stage]:
    """The candidates with their answers, the best of them, and its stage.

    Raises:
        NoPlanFits: if none keeps within the limit.
    """
    limit = question.limit
    found = _first_answers(candidates, limit, clock, progress=progress)
    clock.lap("relaxation")
    if _refines(question):
        progress("three mesh axes", 0.0)
        refined = refine(question, found, out_of_time=clock.is_over)
        found += [] if refined is None else [refined]
        clock.lap("refinement")
    # A limit that these do not meet is for the solver, whatever the level.
    fits = any(c.rank(limit)[0] == 0 for c in found)
    if question.options.level != "O1" or not fits:
        found = _prove(found, limit, clock, progress=progress)
        clock.lap("solver")
        if not any(c.rank(limit)[0] == 0 for c in found):
            raise _nothing_fits(found, limit)
    chosen = min(found, key=lambda candidate: candidate.rank(limit))
    assert chosen.outcome is not None
    stage = make_stage(
        question.structure,
        chosen.problem,
        chosen.outcome.assignment,
        memory=chosen.memory,
    )
    clock.lap("staging")
    return found, chosen, stage


def _refines(question: Question) -> bool:
    """Whether three axes are looked at where the mesh is free."""
    options, structure = question.options, question.structure
    if options.mesh is not None or structure.program.mesh is not None:
        return False
    is_small = len(structure.deciders) <= _MAX_REFINED_VARIABLES
    return is_small or options.level == "O3"


def _first_answers(
    candidates: Sequence[Candidate],
    limit: float,
    clock: _Clock,
    *,
    progress: Progress,
) -> list[Candidate]:
    """Answers by messages, of the meshes that these do not rule out."""
    found: list[Candidate] = []
    best = np.inf
    prices: Prices = ()
    for number, candidate in enumerate(
        sorted(candidates, key=lambda c: c.relaxation.bound)
    ):
        if found and clock.is_over():
            found.append(candidate)
            continue
        progress(f"mesh {candidate.mesh}", number / len(candidates))
        relaxation = candidate.relaxation
        relaxation.sweep(SWEEPS, enough=best, out_of_time=clock.is_over)
        if relaxation.bound < best:
            # Until something fits, a time limit waits.
            is_enough = clock.is_over if best < np.inf else _never
            outcome = first_answer(candidate, out_of_time=is_enough, prices=prices)
            candidate = replace(candidate, outcome=outcome)
            if outcome.peak <= limit and outcome.cost < best:
                best, prices = outcome.cost, outcome.prices
        found.append(candidate)
    return found


def _never() -> bool:
    return False


def _prove(
    candidates: list[Candidate], limit: float, clock: _Clock, *, progress: Progress
) -> list[Candidate]:
    """Better answers by the exact solver, with bounds; most promising mesh first."""
    order = sorted(candidates, key=lambda c: c.rank(limit))
    proven: list[Candidate] = []
    fitting = [c.outcome.cost for c in order if c.outcome and c.outcome.peak <= limit]
    best = min(fitting, default=np.inf)
    for number, candidate in enumerate(order):
        if (
            candidate.outcome is None
            or candidate.bound >= best * (1 - PROVEN)
            or clock.is_over()
        ):
            proven.append(candidate)
            continue
        progress(f"solving mesh {candidate.mesh}", number / len(order))
        outcome = _solve_exactly(
            candidate, best=best, clock=clock, share=1 / len(order)
        )
        if outcome.peak <= limit:
            best = min(best, outcome.cost)
        proven.append(replace(candidate, outcome=outcome))
    return proven


def _solve_exactly(
    candidate: Candidate, *, best: float, clock: _Clock, share: float
) -> Outcome:
    """A better answer and bound for one mesh.

    Args:
        candidate: With an answer.
        best: Cost of the best answer that fits, of any mesh.
        clock: Of the whole search.
        share: Of the time for limited searches, for this one.
    """
    search, network = candidate.limited, candidate.problem.network
    is_small = network.num_variables <= _MAX_CUT_VARIABLES
    most_s = clock.left
    if search.binds and not is_small:
        most_s = clock.left_for_limits(share * _FREE)()
    free = SharingSearch(
        network, search.outcome.assignment, time_limit_s=most_s, upper=best
    ).run()
    bound = max(candidate.bound, free.lower_bound)
    fits = search.offer(free.assignment).peak <= search.limit
    found = search.run(free.assignment, bound=bound, out_of_time=clock.is_over)
    if search.fitting:
        best = min(best, found.cost)
    if fits or bound >= best * (1 - PROVEN):
        return found
    left_s = clock.left_for_limits(share)
    if not is_small:
        recombining_s = left_s() * _RECOMBINING
        search.scatter(out_of_time=lambda: left_s() < recombining_s)
        if search.fitting:
            recombine(network, candidate.memory, search=search, left_s=left_s)
            return search.outcome
    cuts = CutSearch(network, candidate.memory, search.limit)
    return cuts.run(search.outcome, left_s=left_s, upper=best)


def _nothing_fits(candidates: Sequence[Candidate], limit: float) -> NoPlanFits:
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
