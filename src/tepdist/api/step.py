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
from tepdist.errors import located
from tepdist.frontends.again import PlannedCalls
from tepdist.frontends.call import Call
from tepdist.frontends.step_options import StepOptions, read_step_options
from tepdist.plans.types import Options
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
        with located(f"cluster {cluster.name}"):
            self._devices = devices_for(cluster)
        self._calls: PlannedCalls[CompiledCall] = PlannedCalls(fn, self._options)

    @property
    def plan(self) -> Plan:
        """The plan of the latest call.

        Raises:
            PlanError: before the first call.
        """
        return self._calls.called().plan

    def hlo_text(self) -> list[str]:
        """Compiled HLO of the latest call, one text per stage program.

        Raises:
            PlanError: before the first call.
        """
        return self._calls.called().executable.hlo_text()

    def __call__(self, *args: Tree, **kwargs: Tree) -> Tree:
        left, left_named, statics = self._options.call.statics.take_out(args, kwargs)
        leaves, tree = jax.tree.flatten((left, left_named))
        compiled = self._calls.latest
        if compiled is None or not compiled.fits(leaves, tree, statics):
            compiled = self._calls.find(args, kwargs, make=self._compile)
            self._calls.latest = compiled
        return compiled(leaves)

    def _compile(self, fn_call: Call, options: Options) -> CompiledCall:
        request = Request(
            self._cluster,
            options,
            donate=self._options.donate,
            devices=tuple(self._devices),
        )
        plan = plan_call(self._fn, fn_call, request)
        executable = Executable(plan, self._devices, plan.callbacks())
        return CompiledCall(plan, executable)
