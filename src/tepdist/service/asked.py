"""What a user asks of a search in Python's terms, as `Options`."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tepdist.errors import OptionsError
from tepdist.plan.types import Options
from tepdist.sharding import Mesh

# Per dim a mesh axis, several, or None, as in JAX's PartitionSpec.
AskedSharding = Sequence[str | Sequence[str] | None]

_UNITS: Mapping[str, int] = MappingProxyType(
    {"": 1, "B": 1}
    | {f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", start=1)}
    | {f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", start=1)}
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def options_of(
    *,
    level: str = "O2",
    time_limit: float | None = None,
    mesh: Mesh | str | tuple[int, ...] | None = None,
    num_stages: int | None = None,
    num_micro_batches: int | None = None,
    schedule: str | None = None,
    recompute: str | None = None,
    virtual_stages: int | None = None,
    zero: int | None = None,
    memory_limit: int | str | None = None,
    constraints: Mapping[str, AskedSharding] | None = None,
    exact: bool = True,
) -> Options:
    """Options of a search; what is left out is searched.

    >>> options_of(mesh=(2, 4), memory_limit="40GiB").memory_limit_bytes
    42949672960

    Raises:
        OptionsError: if one of them cannot be read.
    """
    return Options(
        level=level,
        time_limit_s=time_limit,
        mesh=_mesh(mesh),
        num_stages=num_stages,
        num_micro_batches=num_micro_batches,
        schedule=schedule,
        recompute=recompute,
        virtual_stages=virtual_stages,
        zero=zero,
        memory_limit_bytes=_size_bytes(memory_limit),
        constraints={
            pattern: _dims(asked) for pattern, asked in (constraints or {}).items()
        },
        exact=exact,
    )


def _mesh(asked: Mesh | str | tuple[int, ...] | None) -> Mesh | None:
    if isinstance(asked, str):
        return Mesh.parse(asked)
    if isinstance(asked, tuple):
        return Mesh.of_shape(asked)
    return asked


def _size_bytes(asked: int | str | None) -> int | None:
    if not isinstance(asked, str):
        return asked
    match = _SIZE.fullmatch(asked.strip())
    if match is None or match[2] not in _UNITS:
        raise OptionsError(f"size {asked!r} is not readable", hint="write e.g. 40GiB")
    return int(float(match[1]) * _UNITS[match[2]])


def _dims(asked: AskedSharding) -> tuple[tuple[str, ...], ...]:
    return tuple(
        () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
        for axes in asked
    )
