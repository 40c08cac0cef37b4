"""The plan that users hold: the decision, and the way back to their trees."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

import jax
from jax.sharding import NamedSharding

from tepdist.errors import PlanError, ShardingError
from tepdist.frontends.call import Call, Leaf, function_name, read_leaf
from tepdist.frontends.jax import Traced, trace_call
from tepdist.frontends.keys import key_data
from tepdist.lowering.dtypes import result_structs
from tepdist.lowering.planned import Callbacks, PlannedProgram, call
from tepdist.plans import files, types
from tepdist.program.fingerprint import compute_alike
from tepdist.runtime.local import named_sharding
from tepdist.sharding import Sharding

Tree: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Plan(types.Plan):
    """A plan, with the way back to the trees of the function it was made for.

    Attributes:
        traced: The function as traced; None for a plan that was loaded.
    """

    traced: Traced | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def of(plan: types.Plan, traced: Traced | None = None) -> "Plan":
        """This plan as one for users."""
        data = {name.name: getattr(plan, name.name) for name in fields(types.Plan)}
        return Plan(**data, traced=traced)

    @staticmethod
    def load(path: str | Path) -> "Plan":
        """The plan that `save` wrote.

        Raises:
            PlanError: if the file cannot be read or is no plan of this version.
        """
        return Plan.of(files.load(path))

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON."""
        files.save(self, path)

    def in_shardings(self, mesh: jax.sharding.Mesh) -> tuple[Tree, ...]:
        """A tree of shardings for each argument, for the caller's own `jax.jit`.

        Args:
            mesh: Of the plan's axis names and sizes.

        Raises:
            PlanError: if the plan was loaded, has several stages, or its function was
                called with keywords, for which `jax.jit` takes no shardings.
            ShardingError: if the mesh is another.
        """
        traced, stage = self._traced(), self._stage()
        _check_mesh(mesh, stage)
        shardings = [
            _leaf_sharding(mesh, leaf, stage.values[value])
            for leaf, value in zip(
                traced.call.leaves, self.program.arguments, strict=True
            )
        ]
        args, kwargs = jax.tree.unflatten(traced.call.tree, shardings)
        if kwargs:
            raise PlanError(
                f"{self.program.name} was called with keywords {', '.join(kwargs)}",
                where="in_shardings",
                hint="pass all arguments by position",
            )
        statics = {place for place, _ in traced.call.statics}
        return tuple(tree for index, tree in enumerate(args) if index not in statics)

    def out_shardings(self, mesh: jax.sharding.Mesh) -> Tree:
        """A tree of shardings of what the function returns.

        Raises:
            PlanError: if the plan was loaded or has several stages.
            ShardingError: if the mesh is another.
        """
        traced, stage = self._traced(), self._stage()
        _check_mesh(mesh, stage)
        shardings = [
            _leaf_sharding(mesh, leaf, sharding)
            for leaf, sharding in zip(traced.results, stage.results, strict=True)
        ]
        return jax.tree.unflatten(traced.result_tree, shardings)

    def constrain(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function with every interior value where the plan wants it.

        What runs is the program that was planned: call it under `jax.jit`, with the
        shardings above and arguments of the shapes that were planned for. It has no
        derivative: plan the function that takes the gradient.

        Args:
            fn: The function that the plan was made for, or one that traces to the
                same program.

        Raises:
            PlanError: if the function is another one, or the plan was loaded or has
                several stages.
        """
        traced, stage = self._traced(), self._stage()
        self._check_traces_alike(fn, traced)
        planned = PlannedProgram(
            self.program, stage, result_structs(self.program), self.callbacks()
        )

        @functools.wraps(fn)
        def constrained(*args: Tree, **kwargs: Tree) -> Tree:
            left, left_named = _without_statics(traced.call, args, kwargs)
            leaves, tree = jax.tree.flatten((left, left_named))
            _check_planned_for(traced.call, leaves, tree)
            arguments = [
                jax.numpy.asarray(key_data(value, leaf), leaf.flat_dtype)
                for value, leaf in zip(leaves, traced.call.leaves, strict=True)
            ]
            return traced.unflatten(call(planned, arguments))

        return constrained

    def callbacks(self) -> Callbacks | None:
        """What partitions the calls in the program that their authors partition."""
        if self.traced is None:
            return None
        return self.traced.callbacks(self._stage().mesh)

    def _check_traces_alike(self, fn: Callable[..., Any], traced: Traced) -> None:
        again = trace_call(
            fn,
            traced.call,
            name=traced.name,
            platform=traced.platform,
            devices=traced.devices,
        )
        returns_alike = (again.result_tree, again.results) == (
            traced.result_tree,
            traced.results,
        )
        if not returns_alike or not compute_alike(again.read(), self.program):
            raise PlanError(
                f"{function_name(fn)} is not the function that was planned",
                where=f"the plan of {self.program.name}",
                hint="make a plan for it: tepdist.plan(fn, ...)",
            )

    def _traced(self) -> Traced:
        if self.traced is None:
            raise PlanError(
                "a loaded plan does not know the function's trees",
                where=f"the plan of {self.program.name}",
                hint="make the plan from the function: tepdist.plan(fn, ...)",
            )
        return self.traced

    def _stage(self) -> types.Stage:
        if len(self.stages) != 1:
            raise PlanError(
                f"the plan has {len(self.stages)} stages, which one jax.jit cannot run",
                where=f"the plan of {self.program.name}",
                hint="use tepdist.parallelize, or plan with num_stages=1",
            )
        return self.stages[0]


def _leaf_sharding(
    mesh: jax.sharding.Mesh, leaf: Leaf, sharding: Sharding
) -> NamedSharding:
    """On the leaf as the user sees it: keys have one dim less than their data."""
    return named_sharding(mesh, Sharding(sharding.dims[: len(leaf.shape)]))


def _check_mesh(mesh: jax.sharding.Mesh, stage: types.Stage) -> None:
    wanted = dict(stage.mesh.axes)
    if dict(mesh.shape) != wanted:
        raise ShardingError(
            f"the mesh is {dict(mesh.shape)}, the plan's is {wanted}",
            where="mesh",
            hint="make one with jax.make_mesh of the plan's sizes and names",
        )


def _check_planned_for(fn_call: Call, leaves: Sequence[Any], tree: Any) -> None:
    if tree != fn_call.tree:
        raise PlanError(
            "the arguments are of another structure than was planned for",
            where=str(tree),
            hint=f"they were planned as {fn_call.tree}",
        )
    for name, leaf, value in zip(fn_call.names, fn_call.leaves, leaves, strict=True):
        given = read_leaf(value, name)
        if not leaf.is_like(given):
            raise PlanError(
                f"argument {name!r} is {given}, planned for {leaf}",
                where=name,
                hint="plan again for other shapes",
            )


def _without_statics(
    fn_call: Call, args: tuple[Tree, ...], kwargs: dict[str, Tree]
) -> tuple[tuple[Tree, ...], dict[str, Tree]]:
    statics = {place for place, _ in fn_call.statics}
    left = tuple(None if index in statics else arg for index, arg in enumerate(args))
    return left, {
        name: None if name in statics else arg for name, arg in kwargs.items()
    }
