"""A call of a user's function, read: which leaves go in, their names and roles.

Nothing is traced here. A leaf is an array, an abstract array or a number; a typed
PRNG key is one leaf, whose uint32 data is what a program sees.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding

from tepdist.errors import OptionsError, ProgramError, located
from tepdist.program.roles import Role

Tree: TypeAlias = Any
TreeDef: TypeAlias = Any  # TreeDef, which has no stub
Path: TypeAlias = tuple[Any, ...]

# Old-style keys are plain uint32 arrays of one key's size: threefry 2, rbg 4.
OLD_KEY_SHAPES = ((2,), (4,))
NAMED_KINDS = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of a tree, without its values.

    Attributes:
        shape: As the user sees it.
        dtype: A numpy dtype, or a key dtype.
        weak: Whether it promotes like a Python number.
        key_impl: Name of the PRNG implementation of typed keys; None for others.
        flat_shape: As the program sees it: key data has one dim more.
        flat_dtype: As the program sees it.
        typed_sharding: Where it lies, if that is part of its type: on a mesh with
            explicit axes. The first call decides.
    """

    shape: tuple[int, ...]
    dtype: Any
    weak: bool
    key_impl: str | None
    flat_shape: tuple[int, ...]
    flat_dtype: np.dtype[Any]
    typed_sharding: NamedSharding | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(str(extent) for extent in self.shape)}]"

    def is_like(self, other: "Leaf") -> bool:
        """Whether one array can stand for the other: equal shape and dtype."""
        return self.shape == other.shape and self.dtype == other.dtype

    def struct(self, *, weak: bool) -> jax.ShapeDtypeStruct:
        """The abstract array."""
        return jax.ShapeDtypeStruct(  # type: ignore[no-untyped-call]
            self.shape, self.dtype, weak_type=weak, sharding=self.typed_sharding
        )


@dataclass(frozen=True, slots=True)
class Statics:
    """Arguments that are not arrays: part of the program, not of its input.

    Attributes:
        positions: Which positional arguments.
        names: Which keyword arguments.
    """

    positions: frozenset[int]
    names: frozenset[str]

    def take_out(
        self, args: Sequence[Tree], kwargs: Mapping[str, Tree]
    ) -> tuple[tuple[Tree, ...], dict[str, Tree], tuple[tuple[int | str, Any], ...]]:
        """Arguments with None for the static ones, and those with their places."""
        if not self.positions and not self.names:
            return tuple(args), dict(kwargs), ()
        left = tuple(
            None if index in self.positions else arg for index, arg in enumerate(args)
        )
        left_named = {
            name: None if name in self.names else arg for name, arg in kwargs.items()
        }
        taken: list[tuple[int | str, Any]] = [
            (index, args[index])
            for index in sorted(self.positions)
            if index < len(args)
        ]
        taken += [(name, kwargs[name]) for name in sorted(self.names & kwargs.keys())]
        return left, left_named, tuple(taken)


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What the user says about a function's arguments.

    Attributes:
        state_argnums: Positions of the arguments that are state.
        batch_argnums: Positions of those that are batch; None for all others.
        statics: Those that are no arrays.
    """

    state_argnums: tuple[int, ...]
    batch_argnums: tuple[int, ...] | None
    statics: Statics


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function, without its values. Equal calls have equal programs.

    Attributes:
        tree: Structure of (args, kwargs) with None for static arguments.
        statics: (place, value) of each static argument.
        leaves: In the tree's order: the program's arguments.
        names: Unique name of each leaf.
        roles: Of each leaf.
        state_trees: (tree, leaf indices) of each state argument.
    """

    tree: TreeDef
    statics: tuple[tuple[int | str, Any], ...]
    leaves: tuple[Leaf, ...]
    names: tuple[str, ...] = field(compare=False)
    roles: tuple[Role, ...] = field(compare=False)
    state_trees: tuple[tuple[TreeDef, tuple[int, ...]], ...] = field(compare=False)

    def structs(self) -> tuple[tuple[Tree, ...], dict[str, Tree]]:
        """Abstract arguments to trace with."""
        leaves = [leaf.struct(weak=leaf.weak) for leaf in self.leaves]
        args, kwargs = jax.tree.unflatten(self.tree, leaves)
        return args, kwargs


@dataclass(frozen=True, slots=True)
class _Slot:
    """One argument of the function.

    Attributes:
        place: Its index among the positional arguments given, or its keyword.
        position: Its position in the signature; None if it has none.
        name: Its parameter's name.
    """

    place: int | str
    position: int | None
    name: str


def call_options(
    fn: Callable[..., Any],
    *,
    state_argnums: int | Iterable[int] = (0,),
    batch_argnums: int | Iterable[int] | None = None,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
) -> CallOptions:
    """The same, with static arguments known by position and by name alike."""
    names = tuple(
        parameter.name for parameter in _parameters(fn) if parameter.kind in NAMED_KINDS
    )
    positions = set(_integers(static_argnums))
    named = (
        {static_argnames} if isinstance(static_argnames, str) else {*static_argnames}
    )
    named |= {names[index] for index in positions if 0 <= index < len(names)}
    positions |= {index for index, name in enumerate(names) if name in named}
    return CallOptions(
        state_argnums=_integers(state_argnums),
        batch_argnums=None if batch_argnums is None else _integers(batch_argnums),
        statics=Statics(frozenset(positions), frozenset(named)),
    )


def read_call(
    fn: Callable[..., Any],
    args: Sequence[Tree],
    kwargs: Mapping[str, Tree],
    *,
    options: CallOptions,
) -> Call:
    """Names, roles and shapes of everything that goes into this call.

    Raises:
        OptionsError: if an argument number is out of range or a static argument
            cannot be hashed.
        ProgramError: if an argument is neither array nor number.
    """
    with located(f"the call of {function_name(fn)}"):
        return _read_call(fn, args, kwargs, options=options)


def _read_call(
    fn: Callable[..., Any],
    args: Sequence[Tree],
    kwargs: Mapping[str, Tree],
    *,
    options: CallOptions,
) -> Call:
    left, left_named, statics = options.statics.take_out(args, kwargs)
    _check_static(statics)
    slots = _slots(fn, len(left), tuple(left_named))
    states = _chosen(slots, options.state_argnums, "state_argnums")
    batches = (
        None
        if options.batch_argnums is None
        else _chosen(slots, options.batch_argnums, "batch_argnums")
    )
    paths, tree = jax.tree_util.tree_flatten_with_path((left, left_named))
    owners = [_owner(path) for path, _ in paths]
    names = _unique(
        _leaf_name(path, slots[owner], is_only_state=states == [owner])
        for (path, _), owner in zip(paths, owners, strict=True)
    )
    leaves = tuple(
        read_leaf(value, name) for (_, value), name in zip(paths, names, strict=True)
    )
    roles = tuple(
        Role.STATE if owner in states else _role(leaf, owner, batches)
        for leaf, owner in zip(leaves, owners, strict=True)
    )
    arguments: dict[int | str, Tree] = dict(enumerate(left))
    arguments.update(left_named)
    return Call(
        tree=tree,
        statics=statics,
        leaves=tuple(map(_strong_if_state, leaves, roles)),
        names=names,
        roles=roles,
        state_trees=tuple(
            (jax.tree.structure(arguments[state]), _indices(owners, state))
            for state in states
        ),
    )


def function_name(fn: Callable[..., Any]) -> str:
    """What to call a function: its name, or its type's if it has none."""
    return str(getattr(fn, "__name__", type(fn).__name__))


def read_leaf(value: object, name: str) -> Leaf:
    """Shape and dtype of an array, an abstract array or a number.

    Raises:
        ProgramError: if it is none of these.
    """
    sharding = _typed_sharding(value)
    if not isinstance(value, jax.ShapeDtypeStruct):
        try:
            value = jax.typeof(value)
        except TypeError:
            raise ProgramError(
                f"argument {name!r} is a {type(value).__name__}, "
                "neither an array nor a number",
                hint="name it in static_argnames, or take it out of the call",
            ) from None
    shape, dtype = tuple(value.shape), value.dtype  # type: ignore[attr-defined]
    weak = bool(getattr(value, "weak_type", False))
    if not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        flat_dtype = np.dtype(jax.dtypes.canonicalize_dtype(dtype))
        return Leaf(shape, flat_dtype, weak, None, shape, flat_dtype, sharding)
    impl, flat_shape = _key_form(shape, dtype)
    return Leaf(shape, dtype, weak, impl, flat_shape, np.dtype(np.uint32))


def _typed_sharding(value: object) -> NamedSharding | None:
    sharding = getattr(value, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return None
    if not isinstance(sharding.mesh, jax.sharding.Mesh):
        return None
    is_typed = AxisType.Explicit in sharding.mesh.axis_types
    return sharding if is_typed else None


def _key_form(shape: tuple[int, ...], dtype: Any) -> tuple[str, tuple[int, ...]]:
    impls: list[str] = []

    def look(keys: jax.Array) -> jax.Array:
        impls.append(str(jax.random.key_impl(keys)))
        return jax.random.key_data(keys)

    struct = jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]
    flat_shape = tuple(jax.eval_shape(look, struct).shape)
    return impls[0], flat_shape


def _strong_if_state(leaf: Leaf, role: Role) -> Leaf:
    """A state's next value is never weak, so neither is its first."""
    return replace(leaf, weak=False) if role is Role.STATE else leaf


def _role(leaf: Leaf, owner: int | str, batches: list[int | str] | None) -> Role:
    if batches is not None:
        return Role.BATCH if owner in batches else Role.CONSTANT
    is_old_key = leaf.dtype == np.uint32 and leaf.shape in OLD_KEY_SHAPES
    if leaf.shape == () or leaf.key_impl is not None or is_old_key:
        return Role.CONSTANT
    return Role.BATCH


def _integers(numbers: int | Iterable[int]) -> tuple[int, ...]:
    return (numbers,) if isinstance(numbers, int) else tuple(numbers)


def _check_static(statics: tuple[tuple[int | str, Any], ...]) -> None:
    for place, value in statics:
        try:
            hash(value)
        except TypeError:
            raise OptionsError(
                f"static argument {place!r} is a {type(value).__name__}, "
                "which cannot be hashed",
                hint="pass a tuple or another hashable value",
            ) from None


def _parameters(fn: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    try:
        return tuple(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return ()


def _slots(
    fn: Callable[..., Any], num_positional: int, keywords: tuple[str, ...]
) -> dict[int | str, _Slot]:
    names = [p.name for p in _parameters(fn) if p.kind in NAMED_KINDS]
    positional: dict[int | str, _Slot] = {
        index: _Slot(
            index, index, names[index] if index < len(names) else f"arg{index}"
        )
        for index in range(num_positional)
    }
    named: dict[int | str, _Slot] = {
        word: _Slot(word, names.index(word) if word in names else None, word)
        for word in keywords
    }
    return {**positional, **named}


def _chosen(
    slots: Mapping[int | str, _Slot], numbers: tuple[int, ...], option: str
) -> list[int | str]:
    """Places of the arguments with these positions, in the order given."""
    by_position = {
        slot.position: slot.place
        for slot in slots.values()
        if slot.position is not None
    }
    count = len(by_position)
    places = []
    for number in numbers:
        place = by_position.get(number + count if number < 0 else number)
        if place is None:
            arguments = {0: "no arguments", 1: "1 argument"}
            has = arguments.get(count, f"{count} arguments")
            raise OptionsError(
                f"{option} has {number}, but the call has {has}",
                hint="count positional arguments from 0; () for none; "
                "the first is state unless state_argnums says otherwise",
            )
        places.append(place)
    return places


def _owner(path: Path) -> int | str:
    """Place of the argument that this path of (args, kwargs) leads into."""
    step = path[1]
    return step.idx if isinstance(step, jax.tree_util.SequenceKey) else str(step.key)


def _leaf_name(path: Path, slot: _Slot, *, is_only_state: bool) -> str:
    inside = path_text(path[2:])
    if is_only_state and inside:
        return inside
    return f"{slot.name}/{inside}" if inside else slot.name


def path_text(path: Path) -> str:
    """A path in a tree as text: ``params/h/3/mlp/w1``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    taken: dict[str, None] = {}
    for name in names:
        fresh, count = name, 1
        while fresh in taken:
            count += 1
            fresh = f"{name}#{count}"
        taken[fresh] = None
    return tuple(taken)


def _indices(owners: Sequence[int | str], wanted: int | str) -> tuple[int, ...]:
    return tuple(index for index, owner in enumerate(owners) if owner == wanted)
