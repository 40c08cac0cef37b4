"""Tensors on a server, as leaves of a client's trees."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

from tepdist.errors import StateConsumed
from tepdist.frontends.call import Leaf
from tepdist.frontends.jax import Traced


class Owner(Protocol):
    """The session that a remote array belongs to."""

    def run_init(
        self, init: "PendingInit", program_id: int | None, positions: dict[int, int]
    ) -> None: ...

    def fetch_arrays(self, arrays: "Sequence[RemoteArray]") -> list[Any]: ...

    def wait_for(self, arrays: "Sequence[RemoteArray]") -> None: ...

    def forget(self, handle: int) -> None: ...


@dataclass(eq=False, slots=True)
class PendingInit:
    """State that is made once the first step's plan says where.

    Attributes:
        traced: The function that makes it.
        arguments: What it is called with, in the program's order.
        arrays: What it makes, in the program's order.
    """

    traced: Traced
    arguments: list[Any]
    arrays: "list[RemoteArray]" = field(default_factory=list)


class RemoteArray:
    """A tensor that lies on a server.

    A leaf in trees. `np.asarray`, `float`, `int` and `bool` bring it here, waiting for
    the step that makes it.

    Attributes:
        leaf: Its shape and dtype, as the user sees them and as a program does.
        session: Whose it is.
        pending: What will make it; None once it is there.
        result: Which result of what makes it.
    """

    def __init__(
        self,
        session: Owner,
        leaf: Leaf,
        *,
        handle: int | None = None,
        pending: PendingInit | None = None,
        result: int = 0,
    ) -> None:
        self.session = session
        self.leaf = leaf
        self.pending = pending
        self.result = result
        self.aval = (leaf.shape, leaf.dtype)
        self._handle = handle
        self._ended: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.leaf.shape

    @property
    def dtype(self) -> Any:
        return self.leaf.dtype

    @property
    def ndim(self) -> int:
        return len(self.leaf.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.leaf.shape, dtype=np.int64))

    @property
    def handle(self) -> int:
        """What the server calls it.

        Raises:
            StateConsumed: if a step took it or it was released.
        """
        if self._ended is not None:
            raise StateConsumed(
                f"{self!r} is gone: {self._ended}",
                hint="use the state that the last step returned",
            )
        if self._handle is None:
            assert self.pending is not None
            self.session.run_init(self.pending, None, {})
        assert self._handle is not None
        return self._handle

    def arrive(self, handle: int) -> None:
        """The server has made it."""
        self._handle = handle
        self.pending = None

    def end(self, reason: str) -> int | None:
        """It is gone; returns the handle it had."""
        handle, self._handle = self._handle, None
        self._ended = self._ended or reason
        return handle

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> np.ndarray:
        (array,) = self.session.fetch_arrays([self])
        return np.asarray(array, dtype=dtype)

    def __float__(self) -> float:
        return float(np.asarray(self))

    def __int__(self) -> int:
        return int(np.asarray(self))

    def __bool__(self) -> bool:
        return bool(np.asarray(self))

    def item(self) -> Any:
        """The only element, as a Python number."""
        return np.asarray(self).item()

    def block_until_ready(self) -> "RemoteArray":
        """Waits for the step that makes it, and raises its error."""
        self.session.wait_for([self])
        return self

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __repr__(self) -> str:
        return f"RemoteArray({self.leaf})"

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None:
            self.session.forget(handle)


def abstract(value: Any) -> Any:
    """What tracing needs to know of a leaf: remote arrays by shape and dtype."""
    return value.leaf.struct(weak=False) if isinstance(value, RemoteArray) else value


def remote_arrays(tree: Any) -> list[RemoteArray]:
    """The remote arrays among a tree's leaves."""
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, RemoteArray)]
