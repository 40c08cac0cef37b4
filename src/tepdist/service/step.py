"""A function of the user's that runs on a server, planned there."""

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import numpy as np

from tepdist.errors import StateError
from tepdist.frontends.call import (
    Call,
    CallOptions,
    Leaf,
    key_data,
    read_call,
)
from tepdist.frontends.jax import Traced, trace_call
from tepdist.plan.types import Options, Plan
from tepdist.program.roles import Role
from tepdist.service.remote import PendingInit, RemoteArray, abstract

_SEEN_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Loaded:
    """A traced function and the program that the server made of it.

    Attributes:
        traced: What was sent.
        program_id: What the server calls it.
        plan: What was decided.
    """

    traced: Traced
    program_id: int
    plan: Plan

    @property
    def donated(self) -> tuple[int, ...]:
        """Positions of the arguments that a step consumes."""
        return tuple(
            index
            for index, role in enumerate(self.traced.roles.arguments)
            if role.donated
        )


class Host(Protocol):
    """What a step needs of its session."""

    platform: str

    def submit(self, traced: Traced, options: Options) -> tuple[int, Plan]: ...

    def run(self, program_id: int, arguments: Sequence[Any]) -> tuple[int, list[int]]: ...

    def run_init(
        self, init: PendingInit, program_id: int | None, positions: dict[int, int]
    ) -> None: ...

    def fetch_arrays(self, arrays: Sequence[RemoteArray]) -> list[Any]: ...

    def forget(self, handle: int) -> None: ...

    def hlo_text(self, program_id: int) -> list[str]: ...


class RemoteStep:
    """Calls of a function on the server's devices; `step(state, batch)`.

    The first call of each shape traces here, plans and compiles there. Arguments are
    remote arrays, which stay where they are, and host arrays, which travel.
    """

    def __init__(
        self,
        session: Host,
        fn: Callable[..., Any],
        *,
        call_options: CallOptions,
        options: Options,
        donate: bool,
    ) -> None:
        self._session = session
        self._fn = fn
        self._call_options = call_options
        self._options = options
        self._donate = donate
        self._loaded: dict[Call, Loaded] = {}
        self._seen: dict[Any, Loaded] = {}
        self._last: Loaded | None = None

    @property
    def plan(self) -> Plan:
        """The plan of the last call's program.

        Raises:
            StateError: before the first call.
        """
        return self._latest().plan

    def hlo_text(self) -> list[str]:
        """Compiled HLO of the last call's program, one text per stage program.

        Raises:
            StateError: before the first call.
        """
        return self._session.hlo_text(self._latest().program_id)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        statics = self._call_options.statics
        left, left_named, taken = statics.take_out(args, kwargs)
        leaves, tree = jax.tree.flatten((left, left_named))
        loaded = self._find((tree, taken, tuple(map(_aval, leaves))), args, kwargs)
        self._last = loaded
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

    def _latest(self) -> Loaded:
        if self._last is None:
            raise StateError(
                "the step has no plan yet", hint="call it once: plans follow shapes"
            )
        return self._last

    def _find(
        self, key: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Loaded:
        """The program for a call like this; planned now if it is the first."""
        loaded = self._seen.get(key)
        if loaded is None:
            abstract_args, abstract_kwargs = jax.tree.map(abstract, (args, dict(kwargs)))
            call = read_call(
                self._fn, abstract_args, abstract_kwargs, options=self._call_options
            )
            loaded = self._loaded.get(call) or self._load(call)
            if len(self._seen) >= _SEEN_LIMIT:
                self._seen.clear()
            self._seen[key] = loaded
        return loaded

    def _load(self, call: Call) -> Loaded:
        options = self._options
        if self._last is not None:
            _check_state(self._last.traced.call, call)
            options = _keep_state(options, self._last.plan)
        platform = {"gpu": "cuda"}.get(self._session.platform, self._session.platform)
        traced = trace_call(self._fn, call, donate=self._donate, platform=platform)
        program_id, plan = self._session.submit(traced, options)
        self._loaded[call] = Loaded(traced, program_id, plan)
        return self._loaded[call]

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


def _check_state(before: Call, now: Call) -> None:
    """Another batch shape is another program; another state shape is a mistake.

    Raises:
        StateError: naming the leaf.
    """
    old = _state_leaves(before)
    new = _state_leaves(now)
    for name in old.keys() ^ new.keys():
        raise StateError(
            f"the state has {'no' if name in old else 'a new'} leaf {name!r}",
            where=name,
            hint="for another structure of state, parallelize the function anew",
        )
    for name, leaf in old.items():
        if not leaf.is_like(new[name]):
            raise StateError(
                f"state {name} is {new[name]}; the step was planned for {leaf}",
                where=name,
                hint="for another shape of state, parallelize the function anew",
            )


def _state_leaves(call: Call) -> dict[str, Leaf]:
    return {
        name: leaf
        for name, role, leaf in zip(call.names, call.roles, call.leaves, strict=True)
        if role is Role.STATE
    }


def _keep_state(options: Options, plan: Plan) -> Options:
    """The same options, with the state where the plan has it."""
    (stage,) = plan.stages
    kept = {
        glob.escape(name): sharding.dims
        for name, sharding in plan.argument_shardings(Role.STATE).items()
    }
    return replace(
        options, mesh=stage.mesh, constraints={**options.constraints, **kept}
    )
