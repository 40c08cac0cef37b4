"""A quick answer on a mesh of three axes or more, from two that it is made of.

The problem of such a mesh is an order of magnitude larger than one of two axes, and may
take longer to build than there is time: 2.3 s of processor time for a GPT of 347
variables on 2x2x2, 0.2 s on 2x4 (2 cores, 2026-11). So neighbouring axes are first
taken together to two, the answers read on the mesh itself, and then one axis after
another set free while all else is held.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from tepdist.cost.pricing import Pricing
from tepdist.search.candidates import (
    SWEEPS,
    Candidate,
    Question,
    closer_answer,
    first_answer,
    make_candidate,
)
from tepdist.search.clock import never
from tepdist.search.refinement import (
    WORTHWHILE,
    Move,
    answers_near,
    neighbour,
    saves,
)
from tepdist.sharding import Mesh

_MOST_ROUNDS = 3


def coarse_answer(
    question: Question, mesh: Mesh, *, out_of_time: Callable[[], bool]
) -> Candidate | None:
    """An answer on a mesh, and the problem of its neighbours.

    Args:
        question: What is asked.
        mesh: Of three axes or more.
        out_of_time: Asked between problems, once there is an answer.

    Returns:
        None where constraints or the program name axes, which two have not.
    """
    wanted = question.options.constraints.values()
    if question.structure.program.mesh or any(any(dims) for dims in wanted):
        return None
    axes = range(len(mesh.axes))
    best: Candidate | None = None
    for cut in axes[1:]:
        if best is not None and out_of_time():
            return best
        found = _together(question, mesh, cut)
        if best is None or found.rank(question.limit) < best.rank(question.limit):
            best = found
    assert best is not None
    moves = [Move(mesh, tuple(axes), free=(axis,)) for axis in axes]
    for _ in range(_MOST_ROUNDS):
        rank = best.rank(question.limit)
        near = answers_near(question, best, moves, best=rank, out_of_time=out_of_time)
        candidates = [each.candidate for each in near]
        better = min(candidates, key=lambda c: c.rank(question.limit), default=best)
        if not saves(WORTHWHILE, better.rank(question.limit), rank):
            break
        best = better
    return best


def _together(question: Question, mesh: Mesh, cut: int) -> Candidate:
    """The answer of two axes on a mesh: what is before a cut, and the rest."""
    shape = (math.prod(mesh.shape[:cut]), math.prod(mesh.shape[cut:]))
    joined = make_candidate(question, Pricing(question.cluster, Mesh.of_shape(shape)))
    joined.relaxation.sweep(SWEEPS)
    joined = replace(joined, outcome=first_answer(joined, out_of_time=never))
    joined = closer_answer(joined, out_of_time=never)
    part_of = tuple(int(axis >= cut) for axis in range(len(mesh.axes)))
    apart = neighbour(question, joined, Move(mesh, part_of, free=()))
    outcome = first_answer(apart.candidate, apart.start, out_of_time=never)
    return replace(apart.candidate, outcome=outcome)
