"""The whole flow on one screen: a program and a cluster go in, a plan comes out."""

import time
from collections.abc import Sequence
from dataclasses import replace

from tepdist.cluster.model import Cluster
from tepdist.cost.compute import matmul_peak_flops_per_s, model_flops
from tepdist.errors import OptionsError, located
from tepdist.garbage import collection_paused
from tepdist.plans.types import Options, Plan, Predicted, Stage
from tepdist.program.fingerprint import fingerprint
from tepdist.program.graph import Program
from tepdist.program.roles import Roles
from tepdist.program.sidecar import check_roles
from tepdist.search.clock import Progress, time_limit_s
from tepdist.search.spmd import Costed, search
from tepdist.search.zero import ZERO_STAGES


def compile_plan(
    program: Program,
    roles: Roles,
    cluster: Cluster,
    *,
    options: Options,
    progress: Progress | None = None,
) -> Plan:
    """The best plan for a program on a cluster.

    Args:
        program: Normalised.
        roles: Of its arguments and results.
        cluster: Where it shall run.
        options: What the user asks for.
        progress: Called with the phase and the share of it that is done.

    Raises:
        NoPlanFits: if no plan keeps within the memory limit.
        OptionsError: if an option or constraint cannot be honoured.
        RolesError: if the roles do not match the program.
    """
    with located(f"{program.name} on {cluster.name}"), collection_paused():
        check_roles(program, roles)
        _check_options(options)
        show = progress or _silent
        found = search(program, roles, cluster, options=options, progress=show)
        plan = Plan(
            program=program,
            roles=roles,
            fingerprint=fingerprint(program, roles),
            cluster=cluster,
            options=options,
            search=found.record,
            predicted=_predict(program, cluster, found.stage),
            stages=(found.stage,),
        )
        if not found.others:
            return plan
        show("compiling the best plans", 0.0)
        return _best_compiled([plan, *(_other(plan, each) for each in found.others)])


def _other(plan: Plan, costed: Costed) -> Plan:
    """The same with another stage."""
    return replace(
        plan,
        search=replace(plan.search, cost_s=costed.cost_s),
        predicted=_predict(plan.program, plan.cluster, costed.stage),
        stages=(costed.stage,),
    )


def _best_compiled(plans: Sequence[Plan]) -> Plan:
    """The best of some plans as compiled, which its record tells."""
    # It imports JAX, which takes a second; other levels do without.
    from tepdist.runtime.repricing import reprice

    record, options = plans[0].search, plans[0].options
    limit_s = time_limit_s(options)
    begin_s = time.perf_counter()
    repriced = reprice(plans, time_limit_s=limit_s - record.seconds)
    taken_s = time.perf_counter() - begin_s
    (chosen,) = (at for at, each in enumerate(repriced) if each.is_chosen)
    return replace(
        plans[chosen],
        search=replace(
            plans[chosen].search,
            seconds=record.seconds + taken_s,
            phases={**record.phases, "compiling": taken_s},
            repriced=repriced,
        ),
    )


def _predict(program: Program, cluster: Cluster, stage: Stage) -> Predicted:
    """What a plan of one stage should do, nothing overlapping."""
    communication_s = sum((c.seconds for c in stage.collectives), 0.0)
    step_time_s = stage.compute_s + communication_s
    flops = model_flops(program)
    peak = matmul_peak_flops_per_s(program, cluster.device) * cluster.num_devices
    return Predicted(
        step_time_s=step_time_s,
        compute_s=stage.compute_s,
        communication_s=communication_s,
        exposed_communication_s=communication_s,
        bubble_fraction=0.0,
        model_flops=flops,
        mfu=flops / (step_time_s * peak) if step_time_s else 0.0,
        memory_per_device_bytes=stage.memory.peak,
    )


def _silent(_phase: str, _done: float) -> None:
    """Shows no progress."""


def _check_options(options: Options) -> None:
    """Refuses by name what cannot be forced."""
    alone = {
        "num_stages": options.num_stages,
        "num_micro_batches": options.num_micro_batches,
        "virtual_stages": options.virtual_stages,
    }
    for name, asked in alone.items():
        if asked not in (None, 1):
            raise OptionsError(
                f"{name}={asked}: a program is one stage and one micro-batch here",
                hint=f"leave {name} out",
            )
    named = {"schedule": options.schedule, "recompute": options.recompute}
    for name, wanted in named.items():
        if wanted not in (None, "none"):
            raise OptionsError(
                f"{name}={wanted!r} cannot be forced", hint=f"leave {name} out"
            )
    if isinstance(options.zero, bool) or options.zero not in (None, *ZERO_STAGES):
        raise OptionsError(
            f"zero={options.zero} is no stage of ZeRO",
            hint="choose 0, 1, 2 or 3, or leave it to the search",
        )
    if options.level not in ("O1", "O2", "O3"):
        raise OptionsError(f"level {options.level!r}", hint="choose O1, O2 or O3")
