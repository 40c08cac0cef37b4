"""Meshes and shardings: how one tensor lies on a grid of devices.

Plain data. *Axis* is the mesh's, *dim* is the tensor's. This file knows no links,
no costs and no jax.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tepdist.errors import OptionsError, ShardingError

AXIS_NAMES = ("x", "y", "z")


@dataclass(frozen=True, slots=True)
class Mesh:
    """Devices in a named grid.

    Attributes:
        axes: (name, size) of each axis, major first: the last axis runs over
            neighbouring devices.
    """

    axes: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.axes]
        if len(set(names)) != len(names):
            raise OptionsError(
                f"mesh axis names {names} are not distinct",
                hint="give every axis its own name",
            )
        for name, size in self.axes:
            if size < 1:
                raise OptionsError(
                    f"mesh axis {name!r} has size {size}", hint="sizes are 1 or more"
                )

    @property
    def num_devices(self) -> int:
        return math.prod(size for _, size in self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size for _, size in self.axes)

    def axis_size(self, name: str) -> int:
        for axis, size in self.axes:
            if axis == name:
                return size
        raise OptionsError(f"mesh {self} has no axis {name!r}")

    def size_of(self, names: Iterable[str]) -> int:
        """Product of the sizes of these axes."""
        return math.prod(self.axis_size(name) for name in names)

    def stride(self, name: str) -> int:
        """Distance in device order between neighbours on this axis."""
        position = self.names.index(name)
        return math.prod(self.shape[position + 1 :])

    def __str__(self) -> str:
        return ",".join(f"{name}={size}" for name, size in self.axes)

    @staticmethod
    def of_shape(shape: tuple[int, ...]) -> "Mesh":
        """A mesh with the axis names x, y, z.

        >>> str(Mesh.of_shape((2, 4)))
        'x=2,y=4'
        """
        if len(shape) > len(AXIS_NAMES):
            raise OptionsError(
                f"mesh of {len(shape)} axes", hint="at most three axes are planned"
            )
        return Mesh(tuple(zip(AXIS_NAMES, shape, strict=False)))

    @staticmethod
    def parse(text: str) -> "Mesh":
        """Reads ``2x4`` or ``data=2,model=4``.

        >>> str(Mesh.parse("data=2,model=4"))
        'data=2,model=4'
        """
        try:
            if "=" in text:
                pairs = [part.split("=") for part in text.split(",")]
                return Mesh(tuple((name.strip(), int(size)) for name, size in pairs))
            return Mesh.of_shape(tuple(int(size) for size in text.split("x")))
        except ValueError:
            raise OptionsError(
                f"mesh {text!r} is not readable", hint="write 2x4 or data=2,model=4"
            ) from None


@dataclass(frozen=True, slots=True)
class Sharding:
    """How one tensor lies on a mesh.

    Attributes:
        dims: For each dim of the tensor the mesh axes that cut it, major first;
            empty for a whole dim. An axis occurs at most once.
    """

    dims: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        used = self.axes
        if len(set(used)) != len(used):
            raise ShardingError(f"sharding {self} uses a mesh axis twice")

    @property
    def axes(self) -> tuple[str, ...]:
        """The mesh axes in use, in dim order."""
        return tuple(axis for dim in self.dims for axis in dim)

    @property
    def is_replicated(self) -> bool:
        return not any(self.dims)

    def num_shards(self, mesh: Mesh) -> int:
        return mesh.size_of(self.axes)

    def local_shape(self, shape: tuple[int, ...], mesh: Mesh) -> tuple[int, ...]:
        """Shape of the first shard of a tensor of this shape; others are no larger.

        Raises:
            ShardingError: if the rank differs.
        """
        if len(shape) != len(self.dims):
            raise ShardingError(f"sharding {self} of a tensor of shape {shape}")
        return tuple(
            [
                -(-extent // mesh.size_of(axes)) if axes else extent
                for extent, axes in zip(shape, self.dims, strict=True)
            ]
        )

    def shard_elements(self, shape: tuple[int, ...], mesh: Mesh) -> int:
        """Elements of the first shard of a tensor of this shape."""
        return math.prod(self.local_shape(shape, mesh))

    def uneven_dims(self, shape: tuple[int, ...], mesh: Mesh) -> tuple[int, ...]:
        """Dims of a tensor of this shape that are not cut into equal parts."""
        return tuple(
            [
                dim
                for dim, (extent, axes) in enumerate(zip(shape, self.dims, strict=True))
                if axes and extent % mesh.size_of(axes)
            ]
        )

    def check_even(self, shape: tuple[int, ...], mesh: Mesh) -> None:
        """Refuses a tensor of this shape if the shards are not all of one shape.

        Raises:
            ShardingError: if the rank differs or an extent is not divided.
        """
        self.local_shape(shape, mesh)
        for dim in self.uneven_dims(shape, mesh):
            axes = self.dims[dim]
            raise ShardingError(
                f"dim {dim} of shape {shape} has extent {shape[dim]}, which "
                f"{mesh.size_of(axes)} shards (mesh axes {axes}) do not divide",
                hint="shard another dim, or leave it whole",
            )

    def __str__(self) -> str:
        return "[" + ", ".join("*".join(dim) or "-" for dim in self.dims) + "]"

    @staticmethod
    def replicated(rank: int) -> "Sharding":
        return Sharding(((),) * rank)
