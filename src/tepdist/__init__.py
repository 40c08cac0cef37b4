"""TePDist: automatic distributed training of StableHLO programs.

    step = tepdist.parallelize(train_step, cluster="cpu:8")
    state, loss = step(state, batch)

Names are loaded when first used: importing the package starts nothing.
"""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tepdist.errors import TepdistError
from tepdist.version import __version__

if TYPE_CHECKING:
    from tepdist.api.plans import plan
    from tepdist.api.step import parallelize
    from tepdist.service.client import connect
    from tepdist.user_plan import Plan

__all__ = [
    "Plan",
    "TepdistError",
    "__version__",
    "connect",
    "parallelize",
    "plan",
]

_HOMES = MappingProxyType(
    {
        "Plan": "tepdist.user_plan",
        "connect": "tepdist.service.client",
        "parallelize": "tepdist.api.step",
        "plan": "tepdist.api.plans",
    }
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
