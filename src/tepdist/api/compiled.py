"""Calls of one shape, compiled: from the caller's trees to devices and back.

Runs at every step with hundreds of leaves: what can be known before is.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tepdist.errors import StateConsumed
from tepdist.frontends.again import refuse_tracer
from tepdist.frontends.call import Leaf, read_leaf
from tepdist.frontends.keys import key_data
from tepdist.program.roles import Role
from tepdist.runtime.local import Executable
from tepdist.user_plan import Plan

Tree: TypeAlias = Any


class CompiledCall:
    """Calls of one shape.

    Attributes:
        plan: What was decided.
        executable: What runs.
        call: The shapes.
    """

    def __init__(self, plan: Plan, executable: Executable) -> None:
        assert plan.traced is not None
        self.plan = plan
        self.executable = executable
        self.traced = plan.traced
        self.call = plan.traced.call
        leaves = tuple(enumerate(self.call.leaves))
        roles = self.call.roles
        self._state = tuple(
            (index, leaf.shape, leaf.dtype)
            for index, leaf in leaves
            if roles[index] is Role.STATE
        )
        self._others = tuple(
            (index, leaf) for index, leaf in leaves if roles[index] is not Role.STATE
        )
        self._kept = tuple(
            index
            for index, role in enumerate(self.traced.roles.arguments)
            if not role.donated
        )
        self._keys = tuple((i, leaf) for i, leaf in leaves if leaf.key_impl is not None)
        self._seen = list[object](executable.argument_shardings)
        self._cut_keys = tuple(self._find_cut_keys())

    def fits(self, leaves: list[Any], tree: Any, statics: tuple[Any, ...]) -> bool:
        """Whether a call with these arguments is one of this shape; cheap."""
        if tree != self.call.tree or statics != self.call.statics:
            return False
        try:
            for index, shape, dtype in self._state:
                leaf = leaves[index]
                if leaf.shape != shape or leaf.dtype != dtype:
                    return False
        except AttributeError:  # a Python number: rare as state
            return False
        return all(
            _is_plainly(leaves[index], leaf)
            or read_leaf(leaves[index], self.call.names[index]) == leaf
            for index, leaf in self._others
        )

    def __call__(self, leaves: list[Any]) -> Tree:
        try:
            arrays = self._place(leaves)
        except RuntimeError:
            self._refuse_consumed(leaves)
            raise
        if any(map(_is_deleted, arrays)):
            self._refuse_consumed(leaves)
        results = list(self.executable(arrays))
        for index, whole in self._cut_keys:
            results[index] = jax.device_put(results[index], whole)
        return self.traced.unflatten(results)

    def _place(self, leaves: list[Any]) -> list[Any]:
        """The leaves as the executable may take them.

        Arrays that lie where the plan wants them are passed on as they are, and so
        are host arrays that no step overwrites: the executable's own dispatch places
        them in less time than a call of `jax.device_put` takes.
        """
        arrays = leaves.copy()
        for index, leaf in self._keys:
            arrays[index] = key_data(arrays[index], leaf)
        for index in self._kept:
            if not isinstance(arrays[index], jax.Array):
                dtype = self.call.leaves[index].flat_dtype
                arrays[index] = np.asarray(arrays[index], dtype)
        moving = [
            index
            for index, (array, seen) in enumerate(zip(arrays, self._seen, strict=True))
            if getattr(array, "sharding", None) is not seen
            and not self._lies_right(index, array)
        ]
        if moving:
            wanted = self.executable.argument_shardings
            moved = jax.device_put(
                [self._movable(index, arrays[index]) for index in moving],
                [wanted[index] for index in moving],
            )
            for index, array in zip(moving, moved, strict=True):
                arrays[index] = array
        return arrays

    def _find_cut_keys(self) -> Iterator[tuple[int, NamedSharding]]:
        """Results that are keys with their data cut, which JAX does not allow."""
        shardings = self.executable.result_shardings
        for index, leaf in enumerate(self.traced.results):
            rank, spec = len(leaf.shape), shardings[index].spec
            if leaf.key_impl is not None and any(spec[rank:]):
                whole = PartitionSpec(*spec[:rank])
                yield index, NamedSharding(shardings[index].mesh, whole)

    def _lies_right(self, index: int, array: Any) -> bool:
        """Whether an array whose sharding is new to us need not be moved."""
        wanted = self.executable.argument_shardings[index]
        if not isinstance(array, jax.Array):
            return not self.traced.roles.arguments[index].donated
        refuse_tracer(array, self.traced.name)
        if not array.committed or not array.sharding.is_equivalent_to(
            wanted, array.ndim
        ):
            return False
        self._seen[index] = array.sharding
        return True

    def _movable(self, index: int, value: Any) -> Any:
        """The value as `jax.device_put` may take it.

        What it places may share memory with what it is given, and a step overwrites
        donated state: that is copied, so that the caller's own array stays whole.
        """
        is_donated = self.traced.roles.arguments[index].donated
        if isinstance(value, jax.Array):
            is_here = is_donated and value.is_fully_addressable
            return np.array(value) if is_here else value
        dtype = self.call.leaves[index].flat_dtype
        return np.array(value, dtype) if is_donated else np.asarray(value, dtype)

    def _refuse_consumed(self, leaves: Sequence[Any]) -> None:
        for name, leaf in zip(self.call.names, leaves, strict=True):
            if isinstance(leaf, jax.Array) and leaf.is_deleted():
                raise StateConsumed(
                    f"{name!r} was consumed by an earlier step",
                    where=name,
                    hint="use the state that the step returned, or donate=False",
                ) from None


def _is_plainly(value: Any, leaf: Leaf) -> bool:
    """Whether this is a numpy array just like the leaf; no if that is hard to see."""
    return (
        type(value) is np.ndarray
        and not leaf.weak
        and value.shape == leaf.shape
        and value.dtype == leaf.dtype
    )


def _is_deleted(array: Any) -> bool:
    return type(array) is not np.ndarray and array.is_deleted()
