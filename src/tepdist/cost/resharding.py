"""Time of taking a tensor from one sharding to another [s]."""

import itertools

from tepdist.cluster.model import Cluster, Span
from tepdist.cost.axis_parts import AxisPart, PartSharding
from tepdist.cost.collectives import collective_s
from tepdist.cost.resharding_uneven import find_route
from tepdist.cost.resharding_walk import Step
from tepdist.sharding import Mesh, Sharding


def resharding_steps(
    source: Sharding,
    target: Sharding,
    shape: tuple[int, ...],
    *,
    itemsize: float,
    mesh: Mesh,
) -> tuple[Step, ...]:
    """Collectives that take a tensor from `source` to `target`, in order.

    Args:
        source: As it lies.
        target: As it should lie.
        shape: Of the whole tensor.
        itemsize: Size of one element [B].
        mesh: Of both shardings.

    Returns:
        No steps if they are equal or slicing is enough.
    """
    return find_route(source, target, shape, itemsize=itemsize, mesh=mesh).steps


def resharding_path(
    source: Sharding, target: Sharding, shape: tuple[int, ...], *, mesh: Mesh
) -> tuple[PartSharding, ...]:
    """Shardings to state one after another so that exactly those steps are run.

    The last is `target`; empty if it is `source`.
    """
    return find_route(source, target, shape, itemsize=1, mesh=mesh).path


def resharding_s(
    source: Sharding,
    target: Sharding,
    shape: tuple[int, ...],
    *,
    itemsize: float,
    mesh: Mesh,
    cluster: Cluster,
) -> float:
    """Time of `resharding_steps` on this cluster [s]."""
    steps = resharding_steps(source, target, shape, itemsize=itemsize, mesh=mesh)
    return sum(step_s(step, mesh, cluster) for step in steps)


def step_s(step: Step, mesh: Mesh, cluster: Cluster) -> float:
    """Time of one step [s]."""
    return collective_s(step.kind, step.bytes_, step_spans(step, mesh, cluster))


def step_spans(step: Step, mesh: Mesh, cluster: Cluster) -> tuple[Span, ...]:
    """The link levels that one step runs on."""
    if all(part.size == mesh.axis_size(part.axis) for part in step.parts):
        return cluster.spans(mesh, step.mesh_axes)
    return cluster.spans(*_refine(mesh, step.parts))


def _refine(mesh: Mesh, parts: tuple[AxisPart, ...]) -> tuple[Mesh, tuple[str, ...]]:
    """The mesh with axes cut so that each part is made of whole ones; their names."""
    axes: list[tuple[str, int]] = []
    names: list[str] = []
    for axis, size in mesh.axes:
        mine = [part for part in parts if part.axis == axis]
        edges = {1, size}
        for part in mine:
            edges |= {part.pre_size, part.pre_size * part.size}
        cuts = sorted(edges)
        for low, high in itertools.pairwise(cuts):
            name = f"{axis}:{low}"
            axes.append((name, high // low))
            if any(p.pre_size <= low and high <= p.pre_size * p.size for p in mine):
                names.append(name)
    return Mesh(tuple(axes)), tuple(names)
