"""Runs a planned program on this process's devices."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tepdist.errors import ClusterError
from tepdist.lowering.planned import Callbacks
from tepdist.plans.types import Plan, Stage
from tepdist.runtime.compiled import CompiledProgram
from tepdist.sharding import Sharding


class Executable(CompiledProgram):
    """A plan of one stage, compiled.

    Attributes:
        plan: What it runs.
    """

    argument_shardings: tuple[NamedSharding, ...]
    result_shardings: tuple[NamedSharding, ...]

    def __init__(
        self,
        plan: Plan,
        devices: Sequence[jax.Device] | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        """Compiles the plan.

        Args:
            plan: Of one stage.
            devices: Of the plan's cluster, in order; None for `jax.devices()`.
            callbacks: Of functions in the program that their authors partition.

        Raises:
            ClusterError: if there are fewer devices than the plan needs.
            ProgramError: if the devices' compiler refuses the program.
        """
        (stage,) = plan.stages
        mesh = _device_mesh(stage, jax.devices() if devices is None else devices)
        self.plan = plan
        super().__init__(
            plan.program,
            stage,
            argument_shardings=[
                named_sharding(mesh, stage.values[value])
                for value in plan.program.arguments
            ],
            result_shardings=[named_sharding(mesh, each) for each in stage.results],
            donated=[
                index for index, role in enumerate(plan.roles.arguments) if role.donated
            ],
            callbacks=callbacks,
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
