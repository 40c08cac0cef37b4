"""PROGRAM and cluster arguments: files, built-in programs, devices at hand."""

from dataclasses import dataclass
from pathlib import Path

import jax

from tepdist.cluster.model import Cluster
from tepdist.cluster.presets import parse_cluster
from tepdist.errors import ClusterError, ProgramError
from tepdist.frontends import files
from tepdist.frontends.jax import trace
from tepdist.program.graph import Program
from tepdist.program.roles import Roles
from tepdist.zoo.entries import build
from tepdist.zoo.program import ZooProgram

ZOO = "zoo:"


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """A program with its roles, wherever it came from.

    Attributes:
        program: Normalised.
        roles: Of its arguments and results.
        built_in: What made it, if it is of the zoo: it can make real inputs.
    """

    program: Program
    roles: Roles
    built_in: ZooProgram | None = None


def load_program(text: str) -> LoadedProgram:
    """The program that a PROGRAM argument names.

    Raises:
        ProgramError: if there is no such file or it is no program.
        RolesError: if its sidecar does not fit it.
        OptionsError: for an unknown built-in program or key.
    """
    if text.startswith(ZOO):
        built_in = build(text.removeprefix(ZOO))
        traced = trace(
            built_in.train_step,
            (built_in.state, built_in.batch),
            {},
            name=built_in.name,
        )
        return LoadedProgram(traced.read(), traced.roles, built_in)
    path = Path(text)
    if not path.exists():
        raise ProgramError(
            f"there is no program file {text!r}",
            hint=f"built-in programs start with {ZOO}; `tepdist zoo` lists them",
        )
    program, roles = files.load(path)
    return LoadedProgram(program, roles)


def cluster_at_hand() -> Cluster:
    """The cluster of this process's devices.

    Raises:
        ClusterError: if they are of a kind that has to be named.
    """
    devices = jax.devices()
    if devices[0].platform != "cpu":
        raise ClusterError(
            f"at hand are {len(devices)} x {devices[0].device_kind}",
            hint="name them, e.g. --cluster 8xh100, or give a TOML file",
        )
    return parse_cluster(f"cpu:{len(devices)}")


def set_up_devices(cluster: Cluster) -> None:
    """Makes the cluster's virtual CPU devices, or checks that its devices are here.

    Raises:
        ClusterError: if the machine has other or fewer devices.
    """
    if cluster.device.platform == "cpu":
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", cluster.num_devices)
    devices = jax.devices()
    platform = devices[0].platform
    if platform != cluster.device.platform:
        raise ClusterError(
            f"cluster {cluster.name} is of {cluster.device.platform} devices; this "
            f"machine has {len(devices)} of {platform}",
            hint="plan for it with `tepdist plan`; run on e.g. --cluster cpu:8",
        )
    if len(devices) < cluster.num_devices:
        raise ClusterError(
            f"cluster {cluster.name} has {cluster.num_devices} devices; this machine "
            f"has {len(devices)}"
        )
