"""Compiles a plan for the devices that it was made for, whether they are here or not.

For GPUs the compiler in JAX's CUDA plugin needs a description of them, no GPU. What
it compiles is a check of the plan: it cannot run here.
"""

import jax
import numpy as np
from jax.experimental import topologies
from jax.stages import Compiled

from tepdist.cluster.model import Cluster
from tepdist.errors import ClusterError
from tepdist.plans.types import Plan
from tepdist.runtime.compiled import jitted_program, placed_structs, refusals_told
from tepdist.runtime.devices import devices_for
from tepdist.runtime.gpu_targets import TARGETS, target_config
from tepdist.runtime.local import named_sharding

# Trying kernels out needs a GPU.
_GPU_OPTIONS = {"xla_gpu_autotune_level": 0}


def compile_for_cluster(plan: Plan) -> Compiled:
    """The plan's stage compiled for its cluster.

    Args:
        plan: Of one stage.

    Raises:
        ClusterError: if there is no compiler here for such devices; says why.
        ProgramError: if the compiler refuses the program.
    """
    (stage,) = plan.stages
    program, platform = plan.program, plan.cluster.device.platform
    devices = _devices(plan.cluster)
    grid = np.array([devices[index] for index in stage.devices])
    mesh = jax.sharding.Mesh(grid.reshape(stage.mesh.shape), stage.mesh.names)
    arguments = [named_sharding(mesh, stage.values[v]) for v in program.arguments]
    jitted = jitted_program(
        program,
        stage,
        argument_shardings=arguments,
        result_shardings=[named_sharding(mesh, each) for each in stage.results],
        donated=[at for at, role in enumerate(plan.roles.arguments) if role.donated],
    )
    traced = jitted.trace(*placed_structs(program, arguments))
    name = "cuda" if platform == "gpu" else platform
    with refusals_told(program):
        lowered = traced.lower(lowering_platforms=(name,))
        compiled: Compiled = lowered.compile(
            _GPU_OPTIONS if platform == "gpu" else None
        )
    return compiled


def _devices(cluster: Cluster) -> list[jax.Device]:
    """Devices to compile for: virtual CPU devices, or descriptions of GPUs."""
    platform, kind = cluster.device.platform, cluster.device.kind
    if platform == "cpu":
        return devices_for(cluster)
    if platform != "gpu":
        raise ClusterError(
            f"there is no compiler for {kind} here",
            where=f"cluster {cluster.name}",
            hint="plans for cpu and gpu clusters can be verified anywhere",
        )
    if kind not in TARGETS:
        raise ClusterError(
            f"{kind} is not described to the compiler",
            where=f"cluster {cluster.name}",
            hint=f"GPUs that are: {', '.join(TARGETS)}",
        )
    try:
        topology = topologies.get_topology_desc(
            platform="cuda",
            target_config=target_config(cluster.device),
            topology=_topology(cluster),
        )
    except NotImplementedError:
        raise ClusterError(
            "the compiler for GPUs is not installed",
            where=f"cluster {cluster.name}",
            hint="pip install 'tepdist[gpu-check]'",
        ) from None
    return list(topology.devices)


def _topology(cluster: Cluster) -> str:
    """Slices x hosts x devices of a host, e.g. ``1x2x8``."""
    inner = cluster.levels[0].size
    return f"1x{cluster.num_devices // inner}x{inner}"
