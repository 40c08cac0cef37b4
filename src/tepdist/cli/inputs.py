"""What `tepdist run` steps a program with: given arrays, else made-up ones."""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from tepdist.analysis.phases import find_phases, read_before_update
from tepdist.cli.programs import LoadedProgram
from tepdist.errors import OptionsError, listed
from tepdist.lowering.dtypes import struct_of
from tepdist.program.graph import Program, Value
from tepdist.program.roles import Role, Roles

Array = jax.Array | npt.NDArray[Any]

SEED = 0
MADE_UP_STD = 0.02
# An array that is no file of arrays has no `files`.
_UNREADABLE = (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile)


def first_arguments(
    loaded: LoadedProgram, given: Mapping[str, Array] | None = None
) -> list[Array]:
    """Host arrays for the first step, in the program's order.

    Args:
        loaded: The program. A built-in one makes its own initial state and batch.
        given: Arrays by the argument's name, instead of those made up.
    """
    given = given or {}
    made_up = _built_in(loaded) or _made_up(loaded.program, loaded.roles)
    return [
        given.get(role.name, array)
        for role, array in zip(loaded.roles.arguments, made_up, strict=True)
    ]


def read_inputs(path: Path, loaded: LoadedProgram) -> dict[str, Array]:
    """The arrays of an ``.npz`` file, by the name of their argument.

    Raises:
        OptionsError: if it is no such file or holds objects; if an array belongs to
            no argument, or has another shape or dtype.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except _UNREADABLE as error:
        raise OptionsError(
            f"no arrays can be read from {path}",
            where="--inputs",
            hint="write it with numpy.savez(FILE, **{argument name: array})",
        ) from error
    names = [role.name for role in loaded.roles.arguments]
    _refuse_unknown(arrays, names)
    program = loaded.program
    values = dict(zip(names, program.arguments, strict=True))
    return {
        name: _as_argument(array, name, program.values[values[name]])
        for name, array in arrays.items()
    }


def _refuse_unknown(given: Iterable[str], names: list[str]) -> None:
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise OptionsError(
            f"the program has no argument {unknown[0]!r}",
            where="--inputs",
            hint=f"its arguments: {listed(names, 6)}",
        )


def _as_argument(array: npt.NDArray[Any], name: str, value: Value) -> npt.NDArray[Any]:
    """The array in its argument's dtype; files know bf16 and its kin as raw bytes."""
    wanted = struct_of(value)
    dtype = np.dtype(wanted.dtype)
    if array.dtype.kind == "V" and array.dtype.itemsize == dtype.itemsize:
        array = array.view(dtype)
    if array.shape != wanted.shape or array.dtype != dtype:
        raise OptionsError(
            f"{name} is {array.dtype.name}{list(array.shape)}, "
            f"the program takes {dtype.name}{list(wanted.shape)}",
            where="--inputs",
            hint="give it in the shape and dtype that the program was written for",
        )
    return array


def _built_in(loaded: LoadedProgram) -> list[Array]:
    built_in = loaded.built_in
    if built_in is None:
        return []
    state = jax.jit(built_in.init)(jax.random.key(SEED))
    return list(jax.tree.leaves((state, built_in.make_batch(SEED))))


def _made_up(program: Program, roles: Roles) -> list[Array]:
    """Zeros for integers and for what an optimizer keeps, else small random numbers."""
    generator = np.random.default_rng(SEED)
    kept = _kept_by_optimizer(program, roles)
    return [
        np.zeros(program.values[index].shape, struct_of(program.values[index]).dtype)
        if index in kept
        else _random(generator, program.values[index])
        for index in program.arguments
    ]


def _kept_by_optimizer(program: Program, roles: Roles) -> set[int]:
    """State that only the update reads: moments, averages, counters start at zero."""
    state = {
        index
        for index, role in zip(program.arguments, roles.arguments, strict=True)
        if role.role is Role.STATE
    }
    return state - read_before_update(program, find_phases(program, roles))


def _random(generator: np.random.Generator, value: Value) -> npt.NDArray[Any]:
    """Small numbers; vectors positive, since some are variances and scales."""
    dtype = struct_of(value).dtype
    if not jnp.issubdtype(dtype, jnp.inexact):
        return np.zeros(value.shape, dtype)
    numbers = generator.normal(0.0, MADE_UP_STD, value.shape)
    made: npt.NDArray[Any] = np.asarray(
        numbers if len(value.shape) > 1 else np.abs(numbers)
    ).astype(dtype)
    return made
