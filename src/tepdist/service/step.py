"""A function of the user's that runs on a server, planned there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from tepdist.frontends.again import PlannedCalls
from tepdist.frontends.call import Call, Leaf
from tepdist.frontends.jax import Traced, trace_call
from tepdist.frontends.keys import key_data
from tepdist.frontends.step_options import ReadOptions
from tepdist.plans import types
from tepdist.service.remote import PendingInit, RemoteArray, abstract
from tepdist.user_plan import Plan

_SEEN_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Loaded:
    """A traced function and the program that the server made of it.

    Attributes:
        traced: What was sent.
        program_id: What the server calls it.
        plan: What was decided.
        donated: Positions of the arguments that a step consumes.
    """

    traced: Traced
    program_id: int
    plan: Plan
    donated: tuple[int, ...]


class Host(Protocol):
    """What a step needs of its session."""

    @property
    def lowered_for(self) -> str: ...

    def submit(
        self, traced: Traced, options: types.Options
    ) -> tuple[int, types.Plan]: ...

    def run(
        self, program_id: int, arguments: Sequence[Any]
    ) -> tuple[int, list[int]]: ...

    def run_init(
        self, init: PendingInit, program_id: int | None, positions: dict[int, int]
    ) -> None: ...

    def fetch_arrays(self, arrays: Sequence[RemoteArray]) -> list[Any]: ...

    def wait_for(self, arrays: Sequence[RemoteArray]) -> None: ...

    def forget(self, handle: int) -> None: ...

    def hlo_text(self, program_id: int) -> list[str]: ...


class RemoteStep:
    """Calls of a function on the server's devices; `step(state, batch)`.

    The first call of each shape traces here, plans and compiles there. Arguments are
    remote arrays, which stay where they are, and host arrays, which travel.
    """

    def __init__(
        self, session: Host, fn: Callable[..., Any], options: ReadOptions
    ) -> None:
        self._session = session
        self._fn = fn
        self._options = options
        self._calls: PlannedCalls[Loaded] = PlannedCalls(fn, options)
        self._seen: dict[Any, Loaded] = {}

    @property
    def plan(self) -> Plan:
        """The plan of the latest call.

        Raises:
            PlanError: before the first call.
        """
        return self._calls.called().plan

    def hlo_text(self) -> list[str]:
        """Compiled HLO of the latest call, one text per stage program.

        Raises:
            PlanError: before the first call.
        """
        return self._session.hlo_text(self._calls.called().program_id)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        statics = self._options.call.statics
        left, left_named, taken = statics.take_out(args, kwargs)
        leaves, tree = jax.tree.flatten((left, left_named))
        loaded = self._find((tree, taken, tuple(map(_aval, leaves))), args, kwargs)
        self._calls.latest = loaded
        self._place_pending(loaded, leaves)
        arguments = [
            value if isinstance(value, RemoteArray) else _host_array(value, leaf)
            for value, leaf in zip(leaves, loaded.traced.call.leaves, strict=True)
        ]
        number, handles = self._session.run(loaded.program_id, arguments)
        for position in loaded.donated:
            if isinstance(value := leaves[position], RemoteArray):
                value.end(f"step {number} of {loaded.traced.name} consumed it")
        results = [
            RemoteArray(self._session, leaf, handle=handle)
            for leaf, handle in zip(loaded.traced.results, handles, strict=True)
        ]
        return jax.tree.unflatten(loaded.traced.result_tree, results)

    def _find(
        self, key: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Loaded:
        """The program for a call like this; planned now if it is the first."""
        try:
            loaded = self._seen.get(key)
        except TypeError:  # a static argument cannot be hashed: `read_call` says which
            loaded = None
        if loaded is None:
            left, named = jax.tree.map(abstract, (args, dict(kwargs)))
            loaded = self._calls.find(left, named, make=self._load)
            if len(self._seen) >= _SEEN_LIMIT:
                self._seen.clear()
            self._seen[key] = loaded
        return loaded

    def _load(self, call: Call, options: types.Options) -> Loaded:
        traced = trace_call(
            self._fn,
            call,
            donate=self._options.donate,
            platform=self._session.lowered_for,
        )
        program_id, plan = self._session.submit(traced, options)
        roles = enumerate(traced.roles.arguments)
        donated = tuple(index for index, role in roles if role.donated)
        return Loaded(traced, program_id, Plan.of(plan, traced), donated)

    def _place_pending(self, loaded: Loaded, leaves: Sequence[Any]) -> None:
        """Makes the state that waits for a plan where this one wants it."""
        positions: dict[int, dict[int, int]] = {}
        inits: dict[int, PendingInit] = {}
        for position, value in enumerate(leaves):
            if isinstance(value, RemoteArray) and value.pending is not None:
                init = value.pending
                inits[id(init)] = init
                positions.setdefault(id(init), {})[value.result] = position
        for key, init in inits.items():
            self._session.run_init(init, loaded.program_id, positions[key])


def _aval(value: Any) -> Any:
    """Equal for leaves that one program takes; cheap."""
    if isinstance(value, RemoteArray):
        return value.aval
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return value.shape, value.dtype, getattr(value, "weak_type", False)
    return type(value)


def _host_array(value: Any, leaf: Leaf) -> np.ndarray:
    return np.asarray(key_data(value, leaf), dtype=leaf.flat_dtype)
