"""Calling a planned function again, with other shapes.

Another batch shape is another program, planned with the state where it is; another
state is a mistake.
"""

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import jax

from tepdist.errors import PlanError, ProgramError, StateError
from tepdist.frontends.call import Call, Leaf, function_name, read_call
from tepdist.frontends.step_options import ReadOptions
from tepdist.plans.types import Options, Plan
from tepdist.program.roles import Role

_HINT = "for another state, parallelize the function anew"


class HasPlan(Protocol):
    """What runs calls of one shape."""

    @property
    def plan(self) -> Plan: ...


Planned = TypeVar("Planned", bound=HasPlan)


class PlannedCalls(Generic[Planned]):
    """What runs a function, for each shape that it was called with.

    The first call's plan says where the state lies for all others.

    Args:
        fn: The function.
        options: What the user asks for.

    Attributes:
        latest: What ran the latest call; None before the first.
    """

    def __init__(self, fn: Callable[..., Any], options: ReadOptions) -> None:
        self.latest: Planned | None = None
        self._fn = fn
        self._options = options
        self._by_call: dict[Call, Planned] = {}

    def find(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        make: Callable[[Call, Options], Planned],
    ) -> Planned:
        """What runs a call like this; made now if it is the first.

        Args:
            args: Positional arguments, arrays or abstract.
            kwargs: Arguments by name.
            make: Plans a call, with these options.

        Raises:
            StateError: if the state is another than the first call's.
            ProgramError: if an argument is no array, or JAX's in place of one.
            OptionsError: if an option does not fit the call.
        """
        for leaf in jax.tree.leaves((args, kwargs)):
            refuse_tracer(leaf, function_name(self._fn))
        call = read_call(self._fn, args, kwargs, options=self._options.call)
        if call not in self._by_call:
            self._by_call[call] = make(call, self._options_for(call))
        return self._by_call[call]

    def called(self) -> Planned:
        """What ran the latest call.

        Raises:
            PlanError: before the first call.
        """
        if self.latest is None:
            raise PlanError(
                "the step has no plan before its first call: plans follow shapes",
                where=function_name(self._fn),
                hint="call it once, or use tepdist.plan(fn, ...)",
            )
        return self.latest

    def _options_for(self, call: Call) -> Options:
        for first, planned in self._by_call.items():
            check_same_state(first, call)
            return keep_state(self._options.plan, planned.plan)
        return self._options.plan


def refuse_tracer(leaf: object, name: str) -> None:
    """Refuses what JAX passes to a step inside `jax.jit`, `jax.grad` or `jax.vmap`.

    Raises:
        ProgramError: if the leaf is a tracer.
    """
    if isinstance(leaf, jax.core.Tracer):
        raise ProgramError(
            "a parallel step runs compiled and cannot be traced by JAX",
            where=f"the call of {name}",
            hint="call it outside jit, grad and vmap; parallelize a function with "
            "these inside, or use tepdist.plan(...).constrain in your own jit",
        )


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
