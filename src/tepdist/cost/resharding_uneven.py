"""How a tensor gets from one sharding to another where parts may be unequal.

Like equal parts, unequal ones are sliced from a whole dim, moved and gathered, all of
a dim at once. They are not cut further nor some of them joined: the edges of more or
fewer parts are elsewhere, and XLA would send what is between to neighbours. Where
Shardy's way does that, such a dim is gathered first or sliced last.
"""

import itertools
from functools import lru_cache

from tepdist.cost.axis_parts import joined, num_shards
from tepdist.cost.resharding_route import Route, shardy_route
from tepdist.cost.resharding_walk import whole_parts
from tepdist.sharding import Mesh, Sharding


@lru_cache(maxsize=2**17)
def find_route(
    source: Sharding,
    target: Sharding,
    shape: tuple[int, ...],
    *,
    itemsize: float,
    mesh: Mesh,
) -> Route:
    """The steps and path from one sharding to another.

    Args:
        source: As the tensor lies.
        target: As it should lie.
        shape: Of the whole tensor.
        itemsize: Size of one element [B].
        mesh: Of both shardings.

    Returns:
        No steps if the shardings are equal or slicing is enough.
    """
    route = shardy_route(source, target, shape, itemsize=itemsize, mesh=mesh)
    uneven = {*source.uneven_dims(shape, mesh), *target.uneven_dims(shape, mesh)}
    if not uneven or all(_keeps_edges(route, source, dim, mesh=mesh) for dim in uneven):
        return route
    changed = {dim for dim in uneven if source.dims[dim] != target.dims[dim]}
    places = (source, _whole(source, changed), _whole(target, changed), target)
    legs = [
        find_route(now, goal, shape, itemsize=itemsize, mesh=mesh)
        for now, goal in itertools.pairwise(places)
    ]
    return Route(
        tuple(step for leg in legs for step in leg.steps),
        tuple(place for leg in legs for place in leg.path),
    )


def _keeps_edges(route: Route, source: Sharding, dim: int, *, mesh: Mesh) -> bool:
    """Whether a dim is always whole, or cut as it is at the start or the end.

    Where it goes from one cut to another, the two have equally many parts.
    """
    along = [joined(whole_parts(source, mesh)[dim])]
    along += [place[dim] for place in route.path]
    ends = ((), along[0], along[-1])
    return all(parts in ends for parts in along) and all(
        not one or not other or num_shards([*one]) == num_shards([*other])
        for one, other in itertools.pairwise(along)
    )


def _whole(sharding: Sharding, dims: set[int]) -> Sharding:
    """The sharding with some dims whole."""
    return Sharding(
        tuple(() if dim in dims else cut for dim, cut in enumerate(sharding.dims))
    )
