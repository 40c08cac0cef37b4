"""Candidates: one mesh each, the problem on it, and what is known of its answer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tepdist.cluster.model import Cluster
from tepdist.cost.pricing import Pricing
from tepdist.errors import OptionsError
from tepdist.plans.types import Options
from tepdist.search.alone import paid_alone
from tepdist.search.arrangements import Held
from tepdist.search.clock import never
from tepdist.search.constraints import wanted_shardings
from tepdist.search.descent import Descent
from tepdist.search.limited import LimitedSearch, Outcome, Prices, rank
from tepdist.search.memory import MemoryModel
from tepdist.search.network import Network
from tepdist.search.problem import Builder, Problem
from tepdist.search.relaxation import Relaxation
from tepdist.search.structure import Structure
from tepdist.sharding import Mesh

PROVEN = 1e-6  # share of a cost by which a bound may miss it
# Sweeps of messages: to put the meshes in order, then to rule them out.
FIRST_SWEEPS = 3
SWEEPS = 20
# Share of a cost by which a bound may miss it in a good answer: a better one of a
# mixture of experts, 0.3 %, took O1 3.5 s more (2 cores, 2026-11).
_GOOD = 2e-2


@dataclass(frozen=True, slots=True)
class Question:
    """What is planned, and what the plan must keep to.

    Attributes:
        structure: Of the program.
        cluster: Where it shall run.
        options: What the user asks for.
        matched: Value to the constraint that names it.
    """

    structure: Structure
    cluster: Cluster
    options: Options
    matched: Mapping[int, str]

    @property
    def limit(self) -> float:
        """Of the memory of one device [B]."""
        return self.options.memory_limit_bytes or self.cluster.device.usable_bytes


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mesh, its problem, and what is known of it; no outcome if it was ruled out."""

    mesh: Mesh
    problem: Problem
    memory: MemoryModel
    relaxation: Relaxation
    limited: LimitedSearch
    outcome: Outcome | None = None

    def rank(self, limit: float) -> tuple[float, float]:
        """Order of candidates, best first."""
        if self.outcome is None:
            return (np.inf, self.relaxation.bound)
        return rank(self.outcome, limit)

    @property
    def bound(self) -> float:
        """No plan of this problem costs less [s]."""
        if self.outcome is None or self.outcome.lower_bound is None:
            return self.relaxation.bound
        return self.outcome.lower_bound

    @property
    def least_peak(self) -> float:
        """No plan of this problem takes less memory [B]."""
        return float(self.memory.least_profile().max())


def best_cost(candidates: Iterable[Candidate], limit: float) -> float:
    """Cost of the cheapest answer that fits; infinite if none does [s].

    Args:
        candidates: Answered, or ruled out.
        limit: Of the memory of one device [B].
    """
    ranks = (candidate.rank(limit) for candidate in candidates)
    return min((cost for excess, cost in ranks if excess == 0), default=np.inf)


def make_candidate(
    question: Question,
    pricing: Pricing,
    held: Sequence[Held] | None = None,
    *,
    out_of_time: Callable[[], bool] = never,
) -> Candidate:
    """The problem of a mesh, and a first bound.

    Args:
        question: What is asked.
        pricing: Of the mesh.
        held: For each variable what some axes cut; None leaves them all free.
        out_of_time: Asked while it is built.

    Raises:
        OptionsError: if a constraint cannot be honoured on the mesh.
        TimeIsOver: if the time is over before it is built.
    """
    structure, options, mesh = question.structure, question.options, pricing.mesh
    wanted = wanted_shardings(
        structure.program, options.constraints, question.matched, mesh=mesh
    )
    builder = Builder(structure, pricing, wanted, zero=options.zero, held=held)
    for variable, space in enumerate(builder.spaces):
        if not len(space):
            raise _cannot_honour(structure, variable, question.matched)
    problem = builder.build(out_of_time)
    memory = MemoryModel(structure, problem)
    relaxation = Relaxation(problem.network)
    relaxation.sweep(FIRST_SWEEPS)
    limited = LimitedSearch(
        problem.network, memory, question.limit, relaxation=relaxation
    )
    return Candidate(mesh, problem, memory, relaxation, limited)


def first_answer(
    candidate: Candidate,
    start: Sequence[int] | None = None,
    *,
    out_of_time: Callable[[], bool],
    prices: Prices = (),
) -> Outcome:
    """An answer by messages and descent.

    Args:
        candidate: Whose problem it answers.
        start: An assignment that the answer shall not be worse than.
        out_of_time: Asked between tries.
        prices: Of memory, to begin with.
    """
    network, search = candidate.problem.network, candidate.limited
    first = candidate.relaxation.rounded()
    # What overflows is where the search within the limit begins.
    if candidate.memory.profile(first).max() > search.limit:
        first = _closer(network, first, bound=candidate.bound, out_of_time=out_of_time)
    if start is not None:
        first = min(first, Descent(network).improve(start), key=network.cost)
        search.offer(tuple(start))
    if candidate.least_peak > search.limit:
        peak = float(candidate.memory.profile(first).max())
        return Outcome(first, network.cost(first), peak, lower_bound=np.inf)
    return search.run(
        first, bound=candidate.bound, out_of_time=out_of_time, prices=prices
    )


def closer_answer(
    candidate: Candidate, *, out_of_time: Callable[[], bool], best: float = np.inf
) -> Candidate:
    """With a better answer, where its bound leaves room for one below the best.

    Where the limit binds `first_answer` has gone this far.

    Args:
        candidate: Answered, or ruled out.
        out_of_time: Asked between tries.
        best: Cost of the best answer of others [s].
    """
    search, outcome = candidate.limited, candidate.outcome
    if outcome is None or search.binds or candidate.least_peak > search.limit:
        return candidate
    if candidate.bound >= best * (1 - _GOOD):
        return candidate
    found = _closer(
        candidate.problem.network,
        outcome.assignment,
        bound=candidate.bound,
        out_of_time=out_of_time,
    )
    outcome = search.run(found, bound=candidate.bound, out_of_time=out_of_time)
    return replace(candidate, outcome=outcome)


def _closer(
    network: Network,
    known: tuple[int, ...],
    *,
    bound: float,
    out_of_time: Callable[[], bool],
) -> tuple[int, ...]:
    """A better assignment, limits left aside, where the bound leaves room for one."""
    if bound >= network.cost(known) * (1 - _GOOD):
        return known
    alone = Descent(network).improve(paid_alone(network, out_of_time=out_of_time))
    return min(known, alone, key=network.cost)


def _cannot_honour(
    structure: Structure, variable: int, matched: Mapping[int, str]
) -> OptionsError:
    values = [
        tensor.value
        for index, group in enumerate(structure.groups)
        if structure.variable_of[index] == variable
        for tensor in group.outputs
        if tensor.value in matched
    ]
    names = [structure.program.values[value].name for value in values]
    return OptionsError(
        f"no way to compute {', '.join(names)} gives the sharding asked for",
        where="constraint " + ", ".join(sorted({matched[v] for v in values})),
        hint="constrain one of them, or a dim that the op can shard",
    )
