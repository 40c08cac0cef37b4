"""Plans priced anew with what the compiler makes of them; nothing runs.

Each plan is compiled in a child process: it starts JAX for as many devices as the plan
has, whatever this process has, may die of the program, and ends when its time is over.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax

from tepdist import children
from tepdist.cost.pricing import Pricing
from tepdist.errors import TepdistError
from tepdist.lowering.device_groups import joined_axes
from tepdist.lowering.dtypes import is_wide
from tepdist.lowering.overlap import scheduled_collectives
from tepdist.plans.json import from_json, to_json
from tepdist.plans.types import Plan, Repriced
from tepdist.runtime.compiled import peak_bytes
from tepdist.runtime.deviceless import compile_for_cluster

# The plugin looks for CUDA's libraries, which compiling does not need.
_START = (
    "import os; os.environ['JAX_PLATFORMS'] = 'cpu'; "
    "os.environ['JAX_SKIP_CUDA_CONSTRAINTS_CHECK'] = '1'; "
    "from tepdist.runtime import repricing; repricing.answer()"
)
_OUT_OF_TIME = "there was no time"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a child says: figures, or why there are none."""

    compiled_s: float | None = None
    allocated_bytes: int | None = None
    reason: str | None = None


def reprice(plans: Sequence[Plan], *, time_limit_s: float) -> tuple[Repriced, ...]:
    """The plans as compiled, one of them chosen.

    The first stays where it cannot be compiled. Else the one is chosen that is
    allocated least beyond the memory limit, and of those the fastest as compiled.

    Args:
        plans: Of one stage each, cheapest first.
        time_limit_s: For all of them [s].
    """
    until = time.perf_counter() + time_limit_s
    found: list[Repriced] = []
    for plan in plans:
        answer = _compiled_apart(plan, until - time.perf_counter())
        found.append(
            Repriced(
                mesh=plan.stages[0].mesh,
                cost_s=plan.search.cost_s,
                compiled_s=answer.compiled_s,
                allocated_bytes=answer.allocated_bytes,
                is_chosen=False,
                reason=answer.reason,
            )
        )
        if found[0].compiled_s is None:
            break  # nothing to hold the others against
    options, device = plans[0].options, plans[0].cluster.device
    limit = options.memory_limit_bytes or device.usable_bytes
    known = [at for at, each in enumerate(found) if each.compiled_s is not None]
    chosen = min(known, key=lambda at: _rank(found[at], limit), default=0)
    return tuple(replace(each, is_chosen=at == chosen) for at, each in enumerate(found))


def _rank(repriced: Repriced, limit: float) -> tuple[float, float]:
    assert repriced.compiled_s is not None
    excess = max((repriced.allocated_bytes or 0) - limit, 0.0)
    return (excess, repriced.compiled_s)


def compiled_step_s(plan: Plan, hlo_text: str) -> float:
    """Time of a step with the collectives of a compiled module [s].

    Those with a kernel beside them are hidden, as far as there is compute to hide them.

    Args:
        plan: Of one stage.
        hlo_text: What its stage is compiled to, scheduled.
    """
    (stage,) = plan.stages
    pricing = Pricing(plan.cluster, stage.mesh)
    exposed_s = hidden_s = 0.0
    for each in scheduled_collectives(hlo_text):
        axes = joined_axes(each.groups, stage.mesh)
        seconds = each.count * pricing.collective_s(each.kind, each.bytes_, axes)
        if each.is_hidden:
            hidden_s += seconds
        else:
            exposed_s += seconds
    return max(stage.compute_s, hidden_s) + exposed_s


def _compiled_apart(plan: Plan, time_limit_s: float) -> _Answer:
    """What a child makes of a plan."""
    if time_limit_s <= 0:
        return _Answer(reason=_OUT_OF_TIME)
    try:
        done = subprocess.run(
            children.command(_START),
            input=to_json(plan).encode(),
            capture_output=True,
            timeout=time_limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _Answer(reason=_OUT_OF_TIME)
    if done.returncode:
        return _Answer(reason="the compiler died of it")
    return _Answer(**json.loads(done.stdout))


def answer() -> None:
    """What the child does."""
    plan = from_json(sys.stdin.buffer.read().decode())
    if is_wide(plan.program):
        jax.config.update("jax_enable_x64", True)
    try:
        compiled = compile_for_cluster(plan)
    except TepdistError as error:
        fields: dict[str, object] = {"reason": error.problem}
    else:
        fields = {
            "compiled_s": compiled_step_s(plan, compiled.as_text() or ""),
            "allocated_bytes": peak_bytes(compiled),
        }
    sys.stdout.write(json.dumps(fields))
