"""Candidate meshes: how the devices may be arranged."""

from tepdist.errors import OptionsError, ProgramError
from tepdist.sharding import AXIS_NAMES, Mesh


def candidate_meshes(
    num_devices: int, forced: Mesh | None, stated: Mesh | None = None
) -> tuple[Mesh, ...]:
    """Every factorisation of the device count into one and two ordered axes.

    Or the one mesh that the user forces, or that the program's own shardings are on.

    The last axis runs over neighbouring devices, so that ordered factors cover every
    way of placing the axes on the cluster's link levels.

    >>> [str(mesh) for mesh in candidate_meshes(6, None)]
    ['x=6', 'x=2,y=3', 'x=3,y=2']

    Raises:
        OptionsError: if a forced mesh is not of that many devices, or not the
            program's.
        ProgramError: if the program's own mesh is not of that many devices.
    """
    if stated is not None:
        _check_stated(num_devices, forced, stated)
        return (stated,)
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


def _check_stated(num_devices: int, forced: Mesh | None, stated: Mesh) -> None:
    if stated.num_devices != num_devices:
        raise ProgramError(
            f"the program states shardings on a mesh of {stated.num_devices} devices "
            f"({stated}), the cluster has {num_devices}",
            hint="make its mesh of as many devices as the cluster has",
        )
    if forced is None or forced == stated:
        return
    is_nameless = forced.names == AXIS_NAMES[: len(forced.names)]
    if not is_nameless or forced.shape != stated.shape:
        raise OptionsError(
            f"mesh {forced} is not the mesh that the program states: {stated}",
            hint="leave mesh out, or make the program's the same",
        )
