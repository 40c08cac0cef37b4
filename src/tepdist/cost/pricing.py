"""Prices on one mesh: reductions and reshardings, fast enough for a search.

A resharding is a few collective steps whose bytes are fixed fractions of the tensor,
whatever its shape. So the steps of each pair of shardings are found once for each
mesh, and a table of costs for all pairs of two lists of shardings is one look-up.
"""

import math
from collections.abc import Sequence

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


class Pricing:
    """Costs of moving data on one mesh of one cluster; remembers what it priced."""

    def __init__(self, cluster: Cluster, mesh: Mesh) -> None:
        self.cluster = cluster
        self.mesh = mesh
        self._spans: dict[tuple[str, ...], tuple[Span, ...]] = {}
        self._steps: dict[_Step, int] = {}
        self._pairs: dict[
            tuple[tuple[tuple[str, ...], tuple[str, ...]], ...], tuple[int, ...]
        ] = {}
        self._numbers: dict[Sharding, int] = {}
        self._numbered: dict[tuple[int, int], tuple[int, ...]] = {}
        self._indices: dict[
            tuple[tuple[Sharding, ...], tuple[Sharding, ...]], NDArray[np.intp]
        ] = {}
        self._priced: dict[int, list[float]] = {}

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
        dtype = value.dtype
        if self.cluster.device.platform == "gpu" and value.producer is not None:
            op = program.ops[value.producer]
            if op.kind == _CONVERT:
                given = program.values[op.operands[0]].dtype
                dtype = min(given, dtype, key=lambda name: DTYPE_BYTES.get(name, 0))
        return self.moved_itemsize(dtype)

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
        counts: NDArray[np.intp] = np.count_nonzero(
            self._index(sources, targets), axis=2
        )
        return counts

    def resharding_table(
        self,
        bytes_: int,
        sources: tuple[Sharding, ...],
        targets: tuple[Sharding, ...],
    ) -> Array:
        """Time to reshard a tensor [s], [num sources, num targets].

        Args:
            bytes_: Size of the whole tensor [B].
            sources: Shardings it may have.
            targets: Shardings it may be wanted in.
        """
        index = self._index(sources, targets)  # first: it may find new steps
        costs = np.array(self._step_costs(bytes_))
        table: Array = costs[index].sum(axis=2)
        return table

    def _index(
        self, sources: tuple[Sharding, ...], targets: tuple[Sharding, ...]
    ) -> NDArray[np.intp]:
        key = (sources, targets)
        if key not in self._indices:
            pairs = self._steps_between(sources, targets)
            width = max((len(steps) for steps in pairs), default=0)
            none = (0,) * max(width, 1)
            index = np.array([steps + none[len(steps) :] for steps in pairs], np.intp)
            shape = (len(sources), len(targets), len(none))
            self._indices[key] = index.reshape(shape)
        return self._indices[key]

    def _steps_between(
        self, sources: tuple[Sharding, ...], targets: tuple[Sharding, ...]
    ) -> list[tuple[int, ...]]:
        """Steps from each source to each target, one source after the other."""
        known = self._numbered
        # Numbers, for a sharding takes long to hash.
        rows, columns = (
            [self._numbers.setdefault(each, len(self._numbers)) for each in shardings]
            for shardings in (sources, targets)
        )
        found = []
        for row, source in zip(rows, sources, strict=True):
            for column, target in zip(columns, targets, strict=True):
                steps = known.get((row, column))
                if steps is None:
                    steps = known[row, column] = self._pair(source, target)
                found.append(steps)
        return found

    def _pair(self, source: Sharding, target: Sharding) -> tuple[int, ...]:
        # Dims that neither cuts change nothing.
        cut = [d for d in zip(source.dims, target.dims, strict=True) if d[0] or d[1]]
        key = tuple(cut)
        if key not in self._pairs:
            source = Sharding(tuple(before for before, _ in cut))
            target = Sharding(tuple(after for _, after in cut))
            self._pairs[key] = tuple(
                self._steps.setdefault(step, len(self._steps) + 1)
                for step in self._shares(source, target)
            )
        return self._pairs[key]

    def _shares(self, source: Sharding, target: Sharding) -> Sequence[_Step]:
        # Any shape that every sharding divides gives the shares of all shapes.
        extent = self.mesh.num_devices
        shape = (extent,) * len(source.dims)
        total = float(extent) ** len(shape)
        steps = resharding_steps(source, target, shape, itemsize=1, mesh=self.mesh)
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
