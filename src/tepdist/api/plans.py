"""`plan`: a plan for a function, to look at or for the caller's own `jax.jit`."""

import glob
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, Unpack

import jax

from tepdist.cluster.model import Cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.call import Call, read_call
from tepdist.frontends.jax import trace_call
from tepdist.frontends.step_options import StepOptions, read_step_options
from tepdist.plans import types
from tepdist.runtime.devices import (
    ask_for_cpu_devices,
    devices_at_hand,
    resolve_cluster,
)
from tepdist.user_plan import Plan

Tree: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Request:
    """What to plan for.

    Attributes:
        cluster: Devices and links.
        options: What to ask of the search.
        donate: Whether a state that is replaced may be overwritten.
        devices: Those of this process that it may run on; none if it runs elsewhere.
    """

    cluster: Cluster
    options: types.Options
    donate: bool
    devices: tuple[jax.Device, ...] = ()


def plan_call(fn: Callable[..., Any], fn_call: Call, request: Request) -> Plan:
    """The plan for a call that was read.

    Raises:
        NoPlanFits: if no plan keeps within the limits.
        ProgramError: if the function cannot be planned.
    """
    # Programs for GPUs and TPUs are traced for whatever JAX runs on here: the same
    # StableHLO, but for custom calls that only their own platform knows.
    platform = "cpu" if request.cluster.device.platform == "cpu" else None
    traced = trace_call(
        fn, fn_call, donate=request.donate, platform=platform, devices=request.devices
    )
    options = replace(
        request.options,
        constraints={**_whole_keys(fn_call), **request.options.constraints},
    )
    plan = compile_plan(traced.read(), traced.roles, request.cluster, options=options)
    return Plan.of(plan, traced)


def _whole_keys(fn_call: Call) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Constraints that leave typed keys whole: JAX does not let their data be cut."""
    return {
        glob.escape(name): ((),) * len(leaf.flat_shape)
        for name, leaf in zip(fn_call.names, fn_call.leaves, strict=True)
        if leaf.key_impl is not None
    }


def plan(
    fn: Callable[..., Any],
    *args: Tree,
    cluster: Cluster | str | None = None,
    **options: Unpack[StepOptions],
) -> Plan:
    """Searches a plan for a train step; runs nothing.

    Args:
        fn: ``(state, batch) -> (state, loss)``, or any pure JAX function.
        *args: What it is called with: arrays or `jax.ShapeDtypeStruct`s.
        cluster: ``"16x8xh100"``, a TOML file, ...; None for the devices at hand.
        **options: What the arguments are and what to ask of the search.

    Raises:
        NoPlanFits: if no plan keeps within the limits.
        OptionsError: naming an option that is unknown or not readable.
        ProgramError: if the function cannot be planned.
        ClusterError: for an unknown cluster.
    """
    read = read_step_options(fn, options)
    target = resolve_cluster(cluster)
    if target.device.platform == "cpu":
        # Tracing starts JAX: who plans for virtual devices may run on them next.
        ask_for_cpu_devices(target.num_devices)
    fn_call = read_call(fn, args, {}, options=read.call)
    request = Request(
        target, read.plan, donate=read.donate, devices=devices_at_hand(target)
    )
    return plan_call(fn, fn_call, request)
