"""`parallelize`: a train step on many devices.

A step is traced and planned at its first call, and again for another batch shape;
its state stays where the first plan put it.
"""

from collections.abc import Callable
from typing import Any, TypeAlias, Unpack

import jax

from tepdist.api.compiled import CompiledCall
from tepdist.api.plans import Request, plan_call
from tepdist.cluster.model import Cluster
from tepdist.errors import PlanError
from tepdist.frontends.again import check_same_state, keep_state
from tepdist.frontends.call import Call, read_call
from tepdist.frontends.options import StepOptions, read_step_options
from tepdist.runtime.devices import devices_for, resolve_cluster
from tepdist.runtime.local import Executable
from tepdist.user_plan import Plan

Tree: TypeAlias = Any


def parallelize(
    fn: Callable[..., Any],
    *,
    cluster: Cluster | str | None = None,
    **options: Unpack[StepOptions],
) -> "ParallelStep":
    """The same step on many devices.

    The first call traces, plans and compiles. State that the step replaces is
    consumed, unless ``donate=False``.

    Args:
        fn: ``(state, batch) -> (state, loss)``, or any pure JAX function.
        cluster: ``"cpu:8"``, ``"8xh100"``, ...; None for the devices at hand.
        **options: What the arguments are and what to ask of the search.

    Raises:
        OptionsError: naming an option that is unknown or not readable.
        ClusterError: if the devices are not at hand.
    """
    target = resolve_cluster(cluster)
    return ParallelStep(fn, target, options)


class ParallelStep:
    """A train step that runs on many devices; see `parallelize`."""

    def __init__(
        self, fn: Callable[..., Any], cluster: Cluster, options: StepOptions
    ) -> None:
        self._fn = fn
        self._options = read_step_options(fn, options)
        self._cluster = cluster
        self._devices = devices_for(cluster)
        self._compiled: dict[Call, CompiledCall] = {}
        self._latest: CompiledCall | None = None

    @property
    def plan(self) -> Plan:
        """The plan of the latest call.

        Raises:
            PlanError: before the first call.
        """
        return self._called().plan

    def hlo_text(self) -> list[str]:
        """Compiled HLO of the latest call, one text per stage program.

        Raises:
            PlanError: before the first call.
        """
        return self._called().executable.hlo_text()

    def __call__(self, *args: Tree, **kwargs: Tree) -> Tree:
        left, left_named, statics = self._options.call.statics.take_out(args, kwargs)
        leaves, tree = jax.tree.flatten((left, left_named))
        compiled = self._latest
        if compiled is None or not compiled.fits(leaves, tree, statics):
            compiled = self._find(args, kwargs)
            self._latest = compiled
        return compiled(leaves)

    def _find(self, args: tuple[Tree, ...], kwargs: dict[str, Tree]) -> CompiledCall:
        """What runs a call like this; planned and compiled now if it is the first."""
        fn_call = read_call(self._fn, args, kwargs, options=self._options.call)
        if fn_call not in self._compiled:
            self._compiled[fn_call] = self._compile(fn_call)
        return self._compiled[fn_call]

    def _compile(self, fn_call: Call) -> CompiledCall:
        options = self._options.plan
        first = next(iter(self._compiled.values()), None)
        if first is not None:
            check_same_state(first.call, fn_call)
            options = keep_state(options, first.plan)
        request = Request(self._cluster, options, donate=self._options.donate)
        plan = plan_call(self._fn, fn_call, request)
        return CompiledCall(plan, Executable(plan, self._devices))

    def _called(self) -> CompiledCall:
        if self._latest is None:
            raise PlanError(
                "the step has no plan before its first call: plans follow shapes",
                hint="call it once, or use tepdist.plan(fn, ...)",
            )
        return self._latest
