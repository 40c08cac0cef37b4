"""The SPMD search: the best sharding of a whole program on one mesh of the cluster.

For each candidate mesh a cost function network is built, solved and kept within the
memory limit. O1 answers by messages, and by the solver where those do not fit; O2 goes
on from there, exactly, for as long as it has time; O3 from O2. The best mesh of two
axes is refined to three where that pays. The cheapest answer that fits is decoded into
a plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tepdist.cluster.model import Cluster
from tepdist.cost.pricing import Pricing
from tepdist.plans.types import Options, SearchRecord, Stage
from tepdist.program.graph import Program
from tepdist.program.roles import Roles
from tepdist.search import proving
from tepdist.search.candidates import (
    SWEEPS,
    Candidate,
    Question,
    best_cost,
    closer_answer,
    first_answer,
    make_candidate,
)
from tepdist.search.clock import Clock, Progress, TimeIsOver, never
from tepdist.search.coarsening import coarse_answer
from tepdist.search.constraints import matched_values
from tepdist.search.distinct import Answer, distinct_answers
from tepdist.search.limited import Prices
from tepdist.search.meshes import candidate_meshes
from tepdist.search.proving import prove
from tepdist.search.refinement import refine
from tepdist.search.refusals import nothing_fits
from tepdist.search.staging import make_stage
from tepdist.search.structure import build_structure
from tepdist.sharding import Mesh
from tepdist.solver import child

# Where three axes take long they are for O3, or for O2 if the mesh is forced: they took
# 5 of 14 s of a GPT of 425 variables on 128x8, for 3.5 % of it (2 cores, 2026-11).
_MAX_REFINED_VARIABLES = 200
_MOST_SEARCHED_AXES = 2  # of meshes that are searched at once
_MOST_STAGES = 3  # that are worth compiling


@dataclass(frozen=True, slots=True)
class Costed:
    """A stage and its cost [s]."""

    stage: Stage
    cost_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, and how.

    Attributes:
        stage: The best.
        record: Of the search.
        others: At O3, stages that cost little more and are not nearly the same,
            cheapest first.
    """

    stage: Stage
    record: SearchRecord
    others: tuple[Costed, ...] = ()


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
    clock = Clock(options.time_limit_s)
    # O3 is O2 first.
    clock.allow(min(options.level, "O2"))
    if options.level != "O1":
        child.prepare()
    meshes = candidate_meshes(cluster.num_devices, options.mesh, program.mesh)
    progress("analysis", 0.0)
    matched = matched_values(program, options.constraints)
    structure = build_structure(program, roles, matched, device=cluster.device)
    clock.lap("analysis")
    # Analysis takes as long as the program is deep: 22 s of O1's 30 for a GPT of
    # 1,024 layers, which left time for one mesh of ten on a loaded machine.
    clock.leave_out(clock.phases["analysis"])
    question = Question(structure, cluster, options, structure.folded.kept(matched))
    candidates, is_complete = _built(question, meshes, clock, progress=progress)
    clock.lap("problems")
    candidates = _answered(question, candidates, clock=clock, progress=progress)
    best, *others = _best(candidates, options.level, question.limit)
    stage, *other_stages = (_stage(question, answer) for answer in (best, *others))
    clock.lap("staging")
    bound = min(c.bound for c in candidates)
    record = SearchRecord(
        level=options.level,
        seconds=clock.seconds,
        phases=clock.phases,
        cost_s=best.cost,
        lower_bound_s=min(bound, best.cost) if is_complete else None,
        num_candidates=len(candidates),
    )
    costed = zip(other_stages, (answer.cost for answer in others), strict=True)
    return Found(stage, record, tuple(Costed(*each) for each in costed))


def _built(
    question: Question, meshes: Sequence[Mesh], clock: Clock, *, progress: Progress
) -> tuple[list[Candidate], bool]:
    """Problems to answer, and whether each mesh has one of all its plans."""
    found: list[Candidate] = []
    for number, mesh in enumerate(meshes):
        progress(f"mesh {mesh}", number / len(meshes))
        coarse = None
        if len(mesh.axes) > _MOST_SEARCHED_AXES:
            coarse = coarse_answer(question, mesh, out_of_time=clock.is_over)
        if coarse is not None:
            found.append(coarse)
            if question.options.level == "O1" and not _is_small(question):
                return found, False
        pricing = Pricing(question.cluster, mesh)
        out_of_time = never if not found else clock.is_over
        try:
            found.append(make_candidate(question, pricing, out_of_time=out_of_time))
        except TimeIsOver:
            return found, False
        if clock.is_over():
            return found, number + 1 == len(meshes)
    return found, True


def _best(candidates: Sequence[Candidate], level: str, limit: float) -> list[Answer]:
    """The best answer, and at O3 a few others."""
    chosen = min(candidates, key=lambda candidate: candidate.rank(limit))
    assert chosen.outcome is not None
    best = Answer(chosen, chosen.outcome.assignment, chosen.outcome.cost)
    count = _MOST_STAGES if level == "O3" else 1
    return distinct_answers(best, candidates, count=count)


def _stage(question: Question, answer: Answer) -> Stage:
    candidate = answer.candidate
    return make_stage(
        question.structure,
        candidate.problem,
        answer.assignment,
        memory=candidate.memory,
    )


def _answered(
    question: Question,
    candidates: Sequence[Candidate],
    *,
    clock: Clock,
    progress: Progress,
) -> list[Candidate]:
    """The candidates with their answers, one of which fits.

    Each level goes on from what the one below found.

    Raises:
        NoPlanFits: if none keeps within the limit.
    """
    limit, level = question.limit, question.options.level

    def fits() -> bool:
        return any(_fits(candidate, limit) for candidate in found)

    def refine_best() -> None:
        progress("three mesh axes", 0.0)
        refined = refine(question, found, out_of_time=clock.is_over)
        if refined is not None:
            found.append(refined)
        clock.lap("refinement")

    found = _first_answers(candidates, limit, clock, progress=progress)
    clock.lap("relaxation")
    if _is_small(question) and _refines(question):
        refine_best()
    # A limit that these do not meet is for the solver, whatever the level.
    if level != "O1" or not fits():
        found = prove(found, limit, clock, effort=proving.O2, progress=progress)
        clock.lap("solver")
    if level == "O3":
        clock.allow("O3")
        if not _is_small(question) and _refines(question):
            refine_best()
        found = prove(found, limit, clock, effort=proving.O3, progress=progress)
        clock.lap("solver")
    if not fits():
        raise nothing_fits(found, limit)
    return found


def _is_small(question: Question) -> bool:
    """Whether three axes take no time to speak of."""
    return len(question.structure.deciders) <= _MAX_REFINED_VARIABLES


def _refines(question: Question) -> bool:
    """Whether the mesh is free to have three axes."""
    return question.options.mesh is None and question.structure.program.mesh is None


def _fits(candidate: Candidate, limit: float) -> bool:
    return candidate.rank(limit)[0] == 0


def _first_answers(
    candidates: Sequence[Candidate],
    limit: float,
    clock: Clock,
    *,
    progress: Progress,
) -> list[Candidate]:
    """Answers by messages, of the meshes that these do not rule out."""
    found: list[Candidate] = []
    best = best_cost(candidates, limit)
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
            is_enough = clock.is_over if best < np.inf else never
            outcome = first_answer(candidate, out_of_time=is_enough, prices=prices)
            candidate = replace(candidate, outcome=outcome)
            if outcome.peak <= limit and outcome.cost < best:
                best, prices = outcome.cost, outcome.prices
        found.append(candidate)
    return _closer(found, limit, clock)


def _closer(
    candidates: Sequence[Candidate], limit: float, clock: Clock
) -> list[Candidate]:
    """The candidates with better answers, where messages alone may be far off."""
    found: list[Candidate] = []
    best = best_cost(candidates, limit)
    for candidate in sorted(candidates, key=lambda c: c.bound):
        if not clock.is_over():
            candidate = closer_answer(candidate, out_of_time=clock.is_over, best=best)
        found.append(candidate)
        if _fits(candidate, limit):
            best = min(best, candidate.rank(limit)[1])
    return found
