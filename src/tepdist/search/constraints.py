"""User constraints: name patterns to shardings, checked before anything is searched."""

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase

from tepdist.analysis.nodes import is_generated
from tepdist.errors import OptionsError, ShardingError, listed
from tepdist.program.graph import Program
from tepdist.sharding import Mesh, Sharding

Wanted = Mapping[str, tuple[tuple[str, ...], ...]]


def matched_values(program: Program, constraints: Wanted) -> dict[int, str]:
    """For each value that some pattern names, the last such pattern.

    A pattern that names arguments means those alone.

    Raises:
        OptionsError: for a pattern that names nothing, or only values that have no
            sharding of their own.
    """
    matched: dict[int, str] = {}
    for pattern in constraints:
        found = [v for v in program.values if fnmatchcase(v.name, pattern)]
        if not found:
            raise OptionsError(
                f"constraint {pattern!r} matches no argument or value",
                hint=_nearest(program, pattern),
            )
        arguments = [v for v in found if v.producer is None]
        found = arguments or found
        placed = [v.index for v in found if not is_generated(program, v.index)]
        if not placed:
            raise OptionsError(
                f"constraint {pattern!r}: {found[0].name} is made anew wherever it is "
                "used and has no sharding of its own",
                hint="constrain a value that is made from it",
            )
        matched.update(dict.fromkeys(placed, pattern))
    return matched


def wanted_shardings(
    program: Program, constraints: Wanted, matched: Mapping[int, str], *, mesh: Mesh
) -> dict[int, Sharding]:
    """Sharding wanted of each matched value on this mesh.

    Raises:
        OptionsError: if a constraint does not fit its value or the mesh.
    """
    _refuse_unknown_axes(constraints, mesh)
    wanted = {}
    for index, pattern in matched.items():
        value = program.values[index]
        where = f"constraint {pattern!r}, value {value.name}"
        try:
            dims, rank = constraints[pattern], len(value.shape)
            if len(dims) > rank:
                raise OptionsError(
                    f"a sharding of {len(dims)} dims for a tensor of {rank}",
                    where=where,
                    hint="give at most one entry for each dim; the rest stay whole",
                )
            sharding = Sharding(dims + ((),) * (rank - len(dims)))
            if value.producer is None:
                sharding.check_even(value.shape, mesh)
        except ShardingError as error:
            raise OptionsError(error.problem, where=where, hint=error.hint) from None
        wanted[index] = sharding
    return wanted


def _refuse_unknown_axes(constraints: Wanted, mesh: Mesh) -> None:
    for pattern, dims in constraints.items():
        missing = sorted({axis for axes in dims for axis in axes} - set(mesh.names))
        if missing:
            raise OptionsError(
                f"mesh {mesh} has no axis {missing[0]!r}",
                where=f"constraint {pattern!r}",
                hint="name the axes with mesh='data=2,model=4'",
            )


def _nearest(program: Program, pattern: str) -> str:
    names = [program.values[value].name for value in program.arguments]
    close = difflib.get_close_matches(pattern, names, n=1, cutoff=0.3)
    if close:
        return f"the nearest argument is {close[0]!r}"
    if not names:
        return "the program has no arguments"
    return f"the arguments: {listed(names, 6)}"
