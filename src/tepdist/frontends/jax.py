"""A JAX function as a program: its StableHLO, its roles, and its trees.

The function is traced for one device from shapes alone. Names and roles come from
the trees of its arguments and of what it returns:

- a result tree that equals a state argument's (same structure, shapes and dtypes),
  as the whole output or in place among the first elements of a tuple, is that
  state's next value;
- scalar float results that replace nothing are losses.
"""

import inspect
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tepdist.errors import ProgramError, located
from tepdist.frontends.call import (
    Call,
    Leaf,
    Tree,
    TreeDef,
    call_options,
    function_name,
    path_text,
    read_call,
    read_leaf,
)
from tepdist.frontends.keys import key_data, wrap_key
from tepdist.frontends.partitioned import calls_partitioned, on_devices
from tepdist.lowering.planned import Callbacks
from tepdist.program import module as modules
from tepdist.program.graph import Program
from tepdist.program.partitioned import number_calls
from tepdist.program.reader import name_arguments, read_program
from tepdist.program.roles import ArgumentRole, ResultRole, Role, Roles
from tepdist.sharding import Mesh

# What JAX raises where Python needs the value of a traced argument, and what
# `jax.jit` says of such an argument where it wants a static one.
VALUE_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    ValueError,
)
STATIC_PROBLEM = "Non-hashable static arguments"


@dataclass(frozen=True, slots=True)
class Traced:
    """A function traced for one device, and the way between its trees and a program.

    Attributes:
        name: Of the program.
        module: StableHLO bytecode, as JAX lowered it.
        roles: Of all arguments and results.
        call: What goes in.
        result_tree: Structure of what comes out.
        results: What comes out, in the program's order.
        key_results: Which of these are typed keys.
        platform: What it was lowered for; None for JAX's default.
        devices: Those it was traced for, if some function in it is partitioned by its
            author; else none.
        lower_on: Traces and lowers it again, on a mesh of them.
    """

    name: str
    module: bytes
    roles: Roles
    call: Call
    result_tree: TreeDef
    results: tuple[Leaf, ...]
    key_results: tuple[int, ...]
    platform: str | None
    devices: tuple[jax.Device, ...] = ()
    lower_on: Callable[[jax.sharding.Mesh], jax.stages.Lowered] | None = field(
        default=None, repr=False, compare=False
    )

    def callbacks(self, mesh: Mesh) -> Callbacks | None:
        """What partitions the calls in the program that their authors partition.

        Args:
            mesh: That the program is planned on.
        """
        if self.lower_on is None:
            return None
        devices = np.array(self.devices).reshape(mesh.shape)
        lowered = self.lower_on(jax.sharding.Mesh(devices, mesh.names))
        with modules.new_context():
            keys = number_calls(modules.parse(_bytecode(lowered)))
        return Callbacks(keys, alive=lowered)

    def read(self) -> Program:
        """The normalised program, its arguments named as in `roles`.

        Raises:
            ProgramError: if it cannot be planned.
        """
        program, _ = read_program(self.module, name=self.name)
        return name_arguments(program, self.call.names)

    def flatten(self, args: Sequence[Tree], kwargs: Mapping[str, Tree]) -> list[Any]:
        """The program's arguments, in order; keys as their data."""
        values = jax.tree.leaves((args, kwargs))
        return [
            key_data(value, leaf)
            for value, leaf in zip(values, self.call.leaves, strict=True)
        ]

    def unflatten(self, results: Sequence[jax.Array]) -> Tree:
        """What the function returns, from the program's results in order."""
        arrays = list(results)
        for index in self.key_results:
            arrays[index] = wrap_key(arrays[index], self.results[index])
        return jax.tree.unflatten(self.result_tree, arrays)


def trace(
    fn: Callable[..., Any],
    args: Sequence[Tree],
    kwargs: Mapping[str, Tree],
    *,
    name: str | None = None,
    state_argnums: int | Iterable[int] = (0,),
    batch_argnums: int | Iterable[int] | None = None,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate: bool = True,
    platform: str | None = None,
) -> Traced:
    """Traces a call of `fn`, from arrays or abstract arrays.

    Args:
        fn: A pure JAX function.
        args: Positional arguments, any trees.
        kwargs: Keyword arguments.
        name: Of the program; the function's if None.
        state_argnums: Which arguments are state.
        batch_argnums: Which are batch; None: all others, but for scalars and keys.
        static_argnums: Which are no arrays; hashable.
        static_argnames: The same by name.
        donate: Whether a state that is replaced may be overwritten.
        platform: To lower for (``cpu``, ``cuda``, ``tpu``); JAX's default if None.

    Raises:
        ProgramError: if an argument is no array or the function has side effects.
        OptionsError: if an option does not fit the call.
    """
    options = call_options(
        fn,
        state_argnums=state_argnums,
        batch_argnums=batch_argnums,
        static_argnums=static_argnums,
        static_argnames=static_argnames,
    )
    call = read_call(fn, args, kwargs, options=options)
    return trace_call(fn, call, name=name, donate=donate, platform=platform)


def trace_call(
    fn: Callable[..., Any],
    call: Call,
    *,
    name: str | None = None,
    donate: bool = True,
    platform: str | None = None,
    devices: Sequence[jax.Device] = (),
) -> Traced:
    """Traces a call that was read before.

    Args:
        fn: A pure JAX function.
        call: Its arguments.
        name: Of the program; the function's if None.
        donate: Whether a state that is replaced may be overwritten.
        platform: To lower for; JAX's default if None.
        devices: Those of this process that it will run on; none if it runs elsewhere.

    Raises:
        ProgramError: if the function has side effects, or needs the value of an
            argument that is not static.
    """
    program_name = name or function_name(fn)
    args, kwargs = call.structs()
    filled = _with_statics(fn, call, program_name)
    platforms = None if platform is None else (platform,)
    with located(_defined_at(fn) or program_name):
        with _values_refused(program_name):
            traced = jax.jit(filled, keep_unused=True).trace(*args, **kwargs)
        _refuse_effects(traced.jaxpr.effects, program_name)
    lowered = traced.lower(lowering_platforms=platforms)

    def lower_on(mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
        placed = jax.jit(on_devices(filled, mesh), keep_unused=True)
        again: jax.stages.Lowered = placed.trace(*args, **kwargs).lower(
            lowering_platforms=platforms
        )
        return again

    is_partitioned = len(devices) > 1 and calls_partitioned(traced.jaxpr.jaxpr)
    if is_partitioned:
        lowered = lower_on(jax.sharding.Mesh(np.array(devices), ("devices",)))
    paths, result_tree = jax.tree_util.tree_flatten_with_path(traced.out_info)
    results = tuple(read_leaf(value, path_text(path)) for path, value in paths)
    replaced = _replaced(call, traced.out_info, results)
    return Traced(
        name=program_name,
        module=_bytecode(lowered),
        roles=Roles(
            _argument_roles(call, frozenset(replaced.values()), donate=donate),
            _result_roles(call, replaced, _Outputs(traced.out_info, paths, results)),
        ),
        call=call,
        result_tree=result_tree,
        results=results,
        key_results=tuple(
            index for index, leaf in enumerate(results) if leaf.key_impl is not None
        ),
        platform=platform,
        devices=tuple(devices) if is_partitioned else (),
        lower_on=lower_on if is_partitioned else None,
    )


def _with_statics(fn: Callable[..., Any], call: Call, name: str) -> Callable[..., Any]:
    def filled(*args: Tree, **kwargs: Tree) -> Tree:
        by_place: dict[int | str, Any] = dict(call.statics)
        all_args = [by_place.get(index, arg) for index, arg in enumerate(args)]
        all_kwargs = {name: by_place.get(name, arg) for name, arg in kwargs.items()}
        return fn(*all_args, **all_kwargs)

    filled.__name__ = name
    return filled


@contextmanager
def _values_refused(name: str) -> Iterator[None]:
    """Says what to do about a function that needs an argument's value.

    That of a `jax.jit` with static arguments does: they are not to be seen from here.
    """
    try:
        yield
    except VALUE_ERRORS as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, ValueError):
            if STATIC_PROBLEM not in reason:
                raise
            reason = "jax.jit was told that it is static"
        raise ProgramError(
            f"{name} needs the value of an argument when it is traced: {reason}",
            hint="state it in static_argnums, also for a function in jax.jit already",
        ) from error


def _defined_at(fn: Callable[..., Any]) -> str | None:
    """File and line of a Python function; None for what has none."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return None if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _refuse_effects(effects: Iterable[object], name: str) -> None:
    found = sorted({type(effect).__name__ for effect in effects})
    if found:
        raise ProgramError(
            f"{name} has side effects ({', '.join(found)})",
            hint="take debug prints and callbacks out of the step",
        )


def _bytecode(lowered: jax.stages.Lowered) -> bytes:
    stream = io.BytesIO()
    module: Any = lowered.compiler_ir("stablehlo")
    module.operation.write_bytecode(stream)
    return stream.getvalue()


@dataclass(frozen=True, slots=True)
class _Outputs:
    """What a function returns: the tree itself, its paths, its leaves."""

    tree: Tree
    paths: Sequence[tuple[tuple[Any, ...], Any]]
    leaves: tuple[Leaf, ...]


def _replaced(call: Call, output: Tree, results: tuple[Leaf, ...]) -> dict[int, int]:
    """Result index to the index of the state argument whose next value it is."""
    whole = _match(call, 0, (jax.tree.structure(output), results))
    if len(call.state_trees) == 1 and whole:
        return whole
    if not isinstance(output, (tuple, list)):
        return {}
    replaced: dict[int, int] = {}
    first = 0
    for number, element in enumerate(output[: len(call.state_trees)]):
        tree: TreeDef = jax.tree.structure(element)
        after = first + tree.num_leaves
        matched = _match(call, number, (tree, results[first:after]))
        replaced |= {first + result: leaf for result, leaf in matched.items()}
        first = after
    return replaced


def _match(
    call: Call, state: int, part: tuple[TreeDef, tuple[Leaf, ...]]
) -> dict[int, int]:
    """Leaf by leaf, if this part of the output is that state's next value."""
    if state >= len(call.state_trees):
        return {}
    tree, leaves = part
    state_tree, indices = call.state_trees[state]
    if tree != state_tree:
        return {}
    if not all(map(Leaf.is_like, leaves, (call.leaves[index] for index in indices))):
        return {}
    return dict(enumerate(indices))


def _argument_roles(
    call: Call, replaced: frozenset[int], *, donate: bool
) -> tuple[ArgumentRole, ...]:
    return tuple(
        ArgumentRole(
            name=name,
            role=role,
            batch_dim=0 if role is Role.BATCH and leaf.flat_shape else None,
            donated=donate and index in replaced,
        )
        for index, (name, role, leaf) in enumerate(
            zip(call.names, call.roles, call.leaves, strict=True)
        )
    )


def _result_roles(
    call: Call, replaced: Mapping[int, int], outputs: _Outputs
) -> tuple[ResultRole, ...]:
    names = _result_names(call, replaced, outputs)
    return tuple(
        ResultRole(
            name=name,
            replaces=call.names[replaced[index]] if index in replaced else None,
            is_loss=index not in replaced and _is_loss(leaf),
        )
        for index, (name, leaf) in enumerate(zip(names, outputs.leaves, strict=True))
    )


def _is_loss(leaf: Leaf) -> bool:
    return leaf.shape == () and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _result_names(
    call: Call, replaced: Mapping[int, int], outputs: _Outputs
) -> list[str]:
    """A state's next value is named as the state, others by their path.

    The path leaves out its first step if only one element is no state, and a lone
    scalar is the ``loss``.
    """
    others = [
        path for index, (path, _) in enumerate(outputs.paths) if index not in replaced
    ]
    has_elements = isinstance(outputs.tree, (tuple, list))
    first_steps = {path[:1] for path in others} if has_elements else {()}
    shared = 1 if has_elements and len(first_steps) == 1 else 0
    names: list[str] = []
    taken = {call.names[index] for index in replaced.values()}
    for index, (path, _) in enumerate(outputs.paths):
        if index in replaced:
            names.append(call.names[replaced[index]])
            continue
        alone = "loss" if _is_loss(outputs.leaves[index]) else "result"
        name = path_text(path[shared:]) or alone
        if (not shared and has_elements) or name in taken:
            name = f"result/{path_text(path) or name}"
        while name in taken:
            name = f"{name}#"
        taken.add(name)
        names.append(name)
    return names
