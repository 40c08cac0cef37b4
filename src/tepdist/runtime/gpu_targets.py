"""What XLA must be told of a GPU to compile for one that is not here.

Sources:
    Compute capability and what follows from it (cores and shared memory of a
        multiprocessor): CUDA C++ Programming Guide, "Technical Specifications per
        Compute Capability".
    Multiprocessors, second-level cache and boost clock: NVIDIA's architecture white
        papers of A100, H100 and B200.
    Memory and its bandwidth are the cluster's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tepdist.cluster.model import Device


@dataclass(frozen=True, slots=True)
class GpuTarget:
    """One kind of GPU.

    Attributes:
        description: Its name as the driver gives it.
        compute_capability: Its major number; the minor is 0.
        num_multiprocessors: Of the whole device.
        cores: FP32 units of a multiprocessor.
        shared_memory_kib: Of a multiprocessor; a block can have all but one.
        cache_bytes: Second-level cache [B].
        clock_ghz: Boost clock [GHz].
    """

    description: str
    compute_capability: int
    num_multiprocessors: int
    cores: int
    shared_memory_kib: int
    cache_bytes: int
    clock_ghz: float


_A100 = GpuTarget("NVIDIA A100-SXM4", 8, 108, 64, 164, 40 * 2**20, 1.41)
_H100 = GpuTarget("NVIDIA H100 HBM3", 9, 132, 128, 228, 50 * 2**20, 1.98)
# Kind of a cluster's device to what it is.
TARGETS: Mapping[str, GpuTarget] = MappingProxyType(
    {
        "a100-40g": _A100,
        "a100-80g": _A100,
        "h100": _H100,
        "h200": _H100,
        "b200": GpuTarget("NVIDIA B200", 10, 148, 128, 228, 126 * 2**20, 1.965),
    }
)


def target_config(device: Device) -> str:
    """The text proto that describes this device to XLA.

    Args:
        device: Of a kind in `TARGETS`.
    """
    target = TARGETS[device.kind]
    per_block_bytes = (target.shared_memory_kib - 1) * 1024
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {target.compute_capability} }}
  core_count: {target.num_multiprocessors}
  fpus_per_core: {target.cores}
  clock_rate_ghz: {target.clock_ghz}
  l2_cache_size: {target.cache_bytes}
  device_memory_size: {device.memory_bytes}
  memory_bandwidth: {round(device.memory_bytes_per_s)}
  shared_memory_per_core: {target.shared_memory_kib * 1024}
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_block_optin: {per_block_bytes}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
runtime_version {{ major: 13 }}
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{target.description}"
"""
