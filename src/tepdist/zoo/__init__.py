"""Built-in models in plain JAX and optax."""

from tepdist.zoo.entries import build, catalogue
from tepdist.zoo.program import ZooProgram

__all__ = ["ZooProgram", "build", "catalogue"]
