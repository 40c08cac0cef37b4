"""TePDist: automatic distributed training of StableHLO programs.

    step = tepdist.parallelize(train_step, cluster="cpu:8")
    state, loss = step(state, batch)

Names are loaded when first used: importing the package starts nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tepdist.errors import TepdistError

if TYPE_CHECKING:
    from tepdist.api.plans import plan
    from tepdist.api.step import parallelize
    from tepdist.service.client import connect
    from tepdist.user_plan import Plan

__version__ = "0.1.0"
__all__ = ["Plan", "TepdistError", "connect", "parallelize", "plan"]

_HOMES = {
    "Plan": "tepdist.user_plan",
    "parallelize": "tepdist.api.step",
    "connect": "tepdist.service.client",
}


class _Front(ModuleType):
    """This package, with its names loaded when first used."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)

    @property
    def plan(self) -> ModuleType:
        """The function `plan`, which is the package of that name too."""
        package = import_module("tepdist.plan")
        package.__class__ = _PlanPackage
        return package

    @plan.setter
    def plan(self, package: ModuleType) -> None:
        """The import system puts the package here; the getter finds it anyway."""


class _PlanPackage(ModuleType):
    """The package `tepdist.plan`; calling it calls the function."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return import_module("tepdist.api.plans").plan(*args, **options)


sys.modules[__name__].__class__ = _Front
