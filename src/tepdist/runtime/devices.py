"""The devices of this process, as a cluster; virtual CPU devices."""

from collections.abc import Mapping
from types import MappingProxyType

import jax

from tepdist.cluster.model import Cluster
from tepdist.cluster.presets import parse_cluster
from tepdist.errors import ClusterError

# Part of a device kind as JAX gives it, in lower case, to the preset; first hit rules.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "cpu": "cpu",
        "v100-sxm2-16gb": "v100-16g",
        "a100-sxm4-40gb": "a100-40g",
        "a100-sxm4-80gb": "a100-80g",
        "a100 80gb": "a100-80g",
        "h100": "h100",
        "h200": "h200",
        "b200": "b200",
        "tpu v4": "tpu-v4",
        "tpu v5 lite": "tpu-v5e",
        "tpu v5e": "tpu-v5e",
        "tpu v5": "tpu-v5p",
    }
)


def resolve_cluster(cluster: Cluster | str | None) -> Cluster:
    """The cluster meant by a user: one by name, or the devices at hand.

    Raises:
        ClusterError: for an unknown name, or devices of a kind with no preset.
    """
    if isinstance(cluster, Cluster):
        return cluster
    return cluster_at_hand() if cluster is None else parse_cluster(cluster)


def cluster_at_hand() -> Cluster:
    """The cluster of this process's devices; starts JAX.

    Raises:
        ClusterError: if they are of a kind that no preset describes.
    """
    devices = jax.devices()
    preset = preset_of(devices[0])
    if preset is None:
        raise ClusterError(
            f"no preset describes the devices at hand: {devices[0].device_kind!r}",
            hint="`tepdist calibrate -o my.toml` measures them; then cluster='my.toml'",
        )
    count = len(devices)
    return parse_cluster(f"cpu:{count}" if preset == "cpu" else f"{count}x{preset}")


def preset_of(device: jax.Device) -> str | None:
    """Name of the preset that describes a device; None if none does."""
    kind = device.device_kind.lower()
    return next((preset for part, preset in KINDS.items() if part in kind), None)


def devices_for(cluster: Cluster) -> list[jax.Device]:
    """This process's devices to run a cluster's plan on; starts JAX.

    Virtual CPU devices are made if JAX has not started.

    Raises:
        ClusterError: if there are too few of them or none of the kind.
    """
    platform, needed = cluster.device.platform, cluster.num_devices
    if platform == "cpu":
        ask_for_cpu_devices(needed)
    try:
        devices = jax.devices(platform)
    except RuntimeError:
        raise ClusterError(
            f"cluster {cluster.name} needs {platform} devices; this process has "
            f"{len(jax.devices())} of {jax.devices()[0].platform}",
            hint="tepdist.plan(...) plans for clusters that are elsewhere",
        ) from None
    if len(devices) < needed:
        raise ClusterError(
            f"cluster {cluster.name} needs {needed} devices; this process has "
            f"{len(devices)}",
            hint=_more_devices_hint(platform, needed),
        )
    return devices[:needed]


def devices_at_hand(cluster: Cluster) -> tuple[jax.Device, ...]:
    """This process's devices if a cluster's plan can run on them, else none."""
    try:
        return tuple(devices_for(cluster))
    except ClusterError:
        return ()


def ask_for_cpu_devices(count: int) -> None:
    """Makes virtual CPU devices, if JAX has not started and nobody asked for more."""
    if getattr(jax.config, "jax_num_cpu_devices", 0) >= count:
        return
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        # JAX has started: what it has must do, and the caller counts.
        return


def _more_devices_hint(platform: str, needed: int) -> str:
    if platform != "cpu":
        return "name a cluster of the devices at hand"
    return (
        "JAX has started with fewer: before its first use set "
        f"XLA_FLAGS=--xla_force_host_platform_device_count={needed}"
    )
