"""Calling a planned function again, with other shapes.

Another batch shape is another program, planned with the state where it is; another
state is a mistake.
"""

import glob
from collections.abc import Mapping
from dataclasses import replace

from tepdist.errors import StateError
from tepdist.frontends.call import Call, Leaf
from tepdist.plan.types import Options, Plan
from tepdist.program.roles import Role

_HINT = "for another state, parallelize the function anew"


def check_same_state(before: Call, now: Call) -> None:
    """Checks that a call passes the state that the step was planned for.

    Raises:
        StateError: naming the leaf that is new, missing, or of other shape or dtype.
    """
    planned, given = state_leaves(before), state_leaves(now)
    for name in (*planned, *given):
        if name not in given:
            problem = f"the state has no leaf {name!r}; the step was planned with one"
            raise StateError(problem, where=name, hint=_HINT)
        if name not in planned:
            problem = f"the state has a leaf {name!r}; the step was planned without"
            raise StateError(problem, where=name, hint=_HINT)
        if not planned[name].is_like(given[name]):
            raise StateError(
                f"state leaf {name!r} is {given[name]}, planned for {planned[name]}",
                where=name,
                hint=_HINT,
            )


def state_leaves(call: Call) -> Mapping[str, Leaf]:
    """Name of each state leaf to its shape and dtype."""
    return {
        name: leaf
        for name, role, leaf in zip(call.names, call.roles, call.leaves, strict=True)
        if role is Role.STATE
    }


def keep_state(options: Options, plan: Plan) -> Options:
    """The same options, with the mesh of the plan and the state where it has it."""
    (stage,) = plan.stages
    kept = {
        # Names are exact; a pattern's special characters in them mean themselves.
        glob.escape(name): sharding.dims
        for name, sharding in plan.argument_shardings(Role.STATE).items()
    }
    return replace(
        options, mesh=stage.mesh, constraints={**options.constraints, **kept}
    )
