"""Prices on one mesh: reductions and reshardings, fast enough for a search.

A resharding is a few collective steps whose bytes are fixed fractions of the tensor,
whatever its shape. So the steps of each pair of shardings are found once for each
mesh, and a table of costs for all pairs of two lists of shardings is one look-up.
Which pairs there are is the same on all meshes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tepdist.cluster.model import Cluster, Span
from tepdist.cost.collectives import collective_s
from tepdist.cost.resharding import resharding_steps, step_spans
from tepdist.cost.resharding_walk import Step
from tepdist.program.graph import DTYPE_BYTES, Program, Value
from tepdist.sharding import Mesh, Sharding

Array = NDArray[np.float64]
_CONVERT = "stablehlo.convert"
_Step = tuple[str, tuple[Span, ...], float]  # kind, links, share of the tensor
_Cuts = tuple[tuple[str, ...], ...]  # axes that cut each dim
# Axes that cut a dim before and after, of each dim that is cut; others change nothing.
_Pair = tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Reshardings:
    """From some shardings to others, on any mesh. Compared by identity.

    Attributes:
        sources: Those.
        targets: Those.
        pairs: Those that differ.
        index: Which of them each is, [sources, targets].
    """

    sources: tuple[Sharding, ...]
    targets: tuple[Sharding, ...]
    pairs: tuple[_Pair, ...]
    index: NDArray[np.intp]


@lru_cache(maxsize=1 << 12)
def reshardings(
    sources: tuple[Sharding, ...], targets: tuple[Sharding, ...]
) -> Reshardings:
    """All from one of the sources to one of the targets."""
    numbers: dict[_Pair, int] = {}
    wanted = [target.dims for target in targets]
    index = [
        numbers.setdefault(_pair(source.dims, dims), len(numbers))
        for source in sources
        for dims in wanted
    ]
    shape = (len(sources), len(targets))
    numbered = np.array(index, np.intp).reshape(shape)
    return Reshardings(sources, targets, tuple(numbers), numbered)


def _pair(source: _Cuts, target: _Cuts) -> _Pair:
    return tuple([cut for cut in zip(source, target, strict=True) if cut[0] or cut[1]])


def _renamed(sharding: Sharding, names: Mapping[str, str]) -> Sharding:
    return Sharding(tuple(tuple(names[axis] for axis in dim) for dim in sharding.dims))


class Pricing:
    """Costs of moving data on one mesh of one cluster; remembers what it priced."""

    def __init__(self, cluster: Cluster, mesh: Mesh) -> None:
        self.cluster = cluster
        self.mesh = mesh
        by_size = sorted(mesh.axes, key=lambda axis: axis[1])
        self._name_by_size = {
            own: name for (own, _), name in zip(by_size, mesh.names, strict=True)
        }
        self._mesh_by_size = Mesh(
            tuple((self._name_by_size[own], size) for own, size in by_size)
        )
        self._spans: dict[tuple[str, ...], tuple[Span, ...]] = {}
        self._steps: dict[_Step, int] = {}
        self._pairs: dict[_Pair, tuple[int, ...]] = {}
        self._indices: dict[Reshardings, NDArray[np.intp]] = {}
        self._priced: dict[int, list[float]] = {}
        self._uneven: dict[
            tuple[Reshardings, tuple[int, ...]],
            list[tuple[int, int, tuple[Step, ...]]],
        ] = {}

    def collective_s(self, kind: str, bytes_: float, axes: tuple[str, ...]) -> float:
        """Time of one collective over some mesh axes [s].

        Args:
            kind: As in `Collective.kind`.
            bytes_: Payload as INTERFACE defines it [B].
            axes: Mesh axes.
        """
        if axes not in self._spans:
            self._spans[axes] = self.cluster.spans(self.mesh, axes)
        return collective_s(kind, float(bytes_), self._spans[axes])

    def moved_itemsize(self, dtype: str) -> float:
        """Size of an element as collectives move it [B].

        XLA:CPU computes in f32 what is bf16, and moves the conversion across the
        collective; f16 it moves as it is.
        """
        if self.cluster.device.platform == "cpu" and dtype == "bf16":
            dtype = "f32"
        return DTYPE_BYTES.get(dtype, 0)

    def resharded_itemsize(self, value: Value, program: Program) -> float:
        """Size of an element as it is moved between shardings [B].

        XLA:GPU moves what it widens before it widens it.
        """
        dtypes = [value.dtype]
        if self.cluster.device.platform == "gpu":
            dtypes.insert(0, converted_dtype(value, program))
        return self.moved_itemsize(
            min(dtypes, key=lambda name: DTYPE_BYTES.get(name, 0))
        )

    def resharded_bytes(self, value: Value, program: Program) -> int:
        """Size of a whole tensor as it is moved between shardings [B]."""
        return math.ceil(value.num_elements * self.resharded_itemsize(value, program))

    def moved_bytes(self, value: Value) -> int:
        """Size of a whole tensor as collectives move it [B]."""
        return math.ceil(value.num_elements * self.moved_itemsize(value.dtype))

    def step_s(self, step: Step) -> float:
        """Time of one step of a resharding [s]."""
        spans = step_spans(step, self.mesh, self.cluster)
        return collective_s(step.kind, float(step.bytes_), spans)

    def num_steps(
        self, sources: tuple[Sharding, ...], targets: tuple[Sharding, ...]
    ) -> NDArray[np.intp]:
        """Collectives that each resharding takes, slicing none, [sources, targets]."""
        wanted = reshardings(sources, targets)
        counts: NDArray[np.intp] = np.count_nonzero(self._index(wanted), axis=1)
        return counts[wanted.index]

    def resharding_table(self, bytes_: int, wanted: Reshardings) -> Array:
        """Time of each resharding of a tensor [s], [num sources, num targets].

        Args:
            bytes_: Size of the whole tensor [B].
            wanted: From the shardings it may have to those it may be wanted in.
        """
        index = self._index(wanted)  # first: it may find new steps
        costs: Array = np.array(self._step_costs(bytes_))[index].sum(axis=1)
        return costs[wanted.index]

    def uneven_table(
        self, shape: tuple[int, ...], itemsize: float, wanted: Reshardings
    ) -> Array:
        """The same where a sharding may have unequal parts [s].

        Args:
            shape: Of the whole tensor: what is moved depends on more than its size.
            itemsize: Of an element as it is moved [B].
            wanted: As for `resharding_table`.
        """
        bytes_ = math.ceil(math.prod(shape) * itemsize)
        table = self.resharding_table(bytes_, wanted)
        for row, column, steps in self.uneven_steps(shape, wanted):
            table[row, column] = sum(
                self.step_s(replace(step, bytes_=math.ceil(step.bytes_ * itemsize)))
                for step in steps
            )
        return table

    def uneven_steps(
        self, shape: tuple[int, ...], wanted: Reshardings
    ) -> Sequence[tuple[int, int, tuple[Step, ...]]]:
        """Row, column and steps of each resharding from or to unequal parts.

        Args:
            shape: Of the whole tensor, of elements of a byte.
            wanted: As for `resharding_table`.
        """
        key = (wanted, shape)
        if key not in self._uneven:
            sources, targets = (
                [bool(each.uneven_dims(shape, self.mesh)) for each in shardings]
                for shardings in (wanted.sources, wanted.targets)
            )
            self._uneven[key] = [
                (
                    row,
                    column,
                    resharding_steps(source, target, shape, itemsize=1, mesh=self.mesh),
                )
                for row, source in enumerate(wanted.sources)
                for column, target in enumerate(wanted.targets)
                if sources[row] or targets[column]
            ]
        return self._uneven[key]

    def _index(self, wanted: Reshardings) -> NDArray[np.intp]:
        """Numbers of the steps of each pair, 0 for none, [num pairs, most steps]."""
        if wanted not in self._indices:
            pairs = [self._steps_of(pair) for pair in wanted.pairs]
            width = max((len(steps) for steps in pairs), default=0)
            none = (0,) * max(width, 1)
            index = [steps + none[len(steps) :] for steps in pairs]
            self._indices[wanted] = np.array(index, np.intp).reshape(-1, len(none))
        return self._indices[wanted]

    def _steps_of(self, pair: _Pair) -> tuple[int, ...]:
        if pair not in self._pairs:
            source = Sharding(tuple(before for before, _ in pair))
            target = Sharding(tuple(after for _, after in pair))
            self._pairs[pair] = tuple(
                self._steps.setdefault(step, len(self._steps) + 1)
                for step in self._shares(source, target)
            )
        return self._pairs[pair]

    def _shares(self, source: Sharding, target: Sharding) -> Sequence[_Step]:
        # Any shape that every sharding divides gives the shares of all shapes. Steps
        # do not depend on names: with these by size, half the meshes have others'.
        extent = self.mesh.num_devices
        shape = (extent,) * len(source.dims)
        total = float(extent) ** len(shape)
        found = resharding_steps(
            _renamed(source, self._name_by_size),
            _renamed(target, self._name_by_size),
            shape,
            itemsize=1,
            mesh=self._mesh_by_size,
        )
        names = {name: own for own, name in self._name_by_size.items()}
        steps = [
            replace(
                step, parts=tuple(p._replace(axis=names[p.axis]) for p in step.parts)
            )
            for step in found
        ]
        return [
            (step.kind, step_spans(step, self.mesh, self.cluster), step.bytes_ / total)
            for step in steps
        ]

    def _step_costs(self, bytes_: int) -> list[float]:
        """Cost of each known step for a tensor of this size; index 0 is no step."""
        costs = self._priced.setdefault(bytes_, [0.0])
        if len(costs) <= len(self._steps):
            for kind, spans, share in list(self._steps)[len(costs) - 1 :]:
                costs.append(collective_s(kind, share * bytes_, spans))
        return costs


def converted_dtype(value: Value, program: Program) -> str:
    """The dtype that a value is converted from; its own if it is not converted."""
    op = None if value.producer is None else program.ops[value.producer]
    if op is None or op.kind != _CONVERT:
        return value.dtype
    return program.values[op.operands[0]].dtype
