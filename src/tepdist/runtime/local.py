"""Runs a planned program on this process's devices."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from tepdist.errors import ClusterError
from tepdist.lowering.dtypes import result_structs, struct_of
from tepdist.lowering.planned import PlannedProgram, call
from tepdist.plan.types import Plan, Stage
from tepdist.sharding import Sharding


class Executable:
    """A plan of one stage, compiled for this process's devices.

    Attributes:
        plan: What it runs.
        argument_shardings: Where each argument must lie, in the program's order.
        result_shardings: Where each result comes out.
    """

    def __init__(self, plan: Plan, devices: Sequence[jax.Device] | None = None) -> None:
        """Compiles the plan.

        Args:
            plan: Of one stage.
            devices: Of the plan's cluster, in order; None for `jax.devices()`.

        Raises:
            ClusterError: if there are fewer devices than the plan needs.
        """
        (stage,) = plan.stages
        mesh = _device_mesh(stage, jax.devices() if devices is None else devices)
        self.plan = plan
        values = plan.program.arguments
        self.argument_shardings = tuple(
            named_sharding(mesh, stage.values[value]) for value in values
        )
        self.result_shardings = tuple(
            named_sharding(mesh, sharding) for sharding in stage.results
        )
        self._structs = tuple(struct_of(plan.program.values[value]) for value in values)
        planned = PlannedProgram(plan.program, stage, result_structs(plan.program))
        donated = tuple(
            index for index, role in enumerate(plan.roles.arguments) if role.donated
        )
        jitted = jax.jit(
            lambda *arguments: call(planned, arguments),
            in_shardings=self.argument_shardings,
            out_shardings=list(self.result_shardings),
            donate_argnums=donated,
            keep_unused=True,
        )
        self._compiled = jitted.lower(*self._structs).compile()

    def put(self, index: int, host_array: ArrayLike) -> jax.Array:
        """Places one argument on the devices, in shards."""
        struct = self._structs[index]
        array = np.asarray(host_array, dtype=struct.dtype)
        placed: jax.Array = jax.device_put(array, self.argument_shardings[index])
        return placed

    def __call__(self, arguments: Sequence[ArrayLike]) -> tuple[jax.Array, ...]:
        """Starts one step and returns at once; donated arguments are consumed.

        Args:
            arguments: Arrays where `argument_shardings` says; host arrays of the
                program's dtypes may stand for arguments that are not donated.
        """
        return tuple(self._compiled(*arguments))

    def hlo_text(self) -> list[str]:
        """The compiled, partitioned HLO of each stage program."""
        return [self._compiled.as_text() or ""]

    def peak_bytes(self) -> int | None:
        """What the compiler allocates on one device [B]; None if it does not say."""
        analysis = self._compiled.memory_analysis()
        if analysis is None:
            return None
        return int(
            analysis.argument_size_in_bytes
            + analysis.output_size_in_bytes
            - analysis.alias_size_in_bytes
            + analysis.temp_size_in_bytes
        )


def named_sharding(mesh: jax.sharding.Mesh, sharding: Sharding) -> NamedSharding:
    """A sharding of ours as JAX's on this mesh."""
    return NamedSharding(mesh, PartitionSpec(*(axes or None for axes in sharding.dims)))


def _device_mesh(stage: Stage, devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    needed = max(stage.devices) + 1
    if len(devices) < needed:
        raise ClusterError(
            f"the plan needs {needed} devices; there are {len(devices)}",
            hint="plan for the devices at hand, or set jax_num_cpu_devices",
        )
    grid = np.array([devices[index] for index in stage.devices])
    return jax.sharding.Mesh(grid.reshape(stage.mesh.shape), stage.mesh.names)
