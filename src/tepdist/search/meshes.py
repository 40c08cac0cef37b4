"""Candidate meshes: how the devices may be arranged."""

from tepdist.errors import OptionsError
from tepdist.sharding import Mesh


def candidate_meshes(num_devices: int, forced: Mesh | None) -> tuple[Mesh, ...]:
    """Every factorisation of the device count into one and two ordered axes.

    The last axis runs over neighbouring devices, so that ordered factors cover every
    way of placing the axes on the cluster's link levels.

    >>> [str(mesh) for mesh in candidate_meshes(6, None)]
    ['x=6', 'x=2,y=3', 'x=3,y=2']

    Raises:
        OptionsError: if a forced mesh is not of that many devices.
    """
    if forced is not None:
        if forced.num_devices != num_devices:
            raise OptionsError(
                f"mesh {forced} has {forced.num_devices} devices, the cluster "
                f"{num_devices}",
                hint="choose a mesh whose sizes multiply to the device count",
            )
        return (forced,)
    pairs = [
        (first, num_devices // first)
        for first in range(2, num_devices)
        if num_devices % first == 0
    ]
    return (Mesh.of_shape((num_devices,)), *(Mesh.of_shape(pair) for pair in pairs))
