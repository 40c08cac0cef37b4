"""Init programs: run once, their results made where another program wants them.

Such a program is not planned. The compiler is told only where the results go, in
shards, and makes each shard on its device: an init program draws numbers and casts
them, and has no collectives to choose.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import Sharding
from jax.typing import ArrayLike
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from tepdist.lowering.dtypes import result_structs, struct_of
from tepdist.program.graph import Program
from tepdist.program.module import parse

_NAME = "initial"


class InitExecutable:
    """An init program, compiled.

    Attributes:
        argument_shardings: Of all its arguments: whole on every device.
        result_shardings: Where each result comes out.
    """

    def __init__(
        self,
        program: Program,
        *,
        argument_sharding: Sharding,
        result_shardings: Sequence[Sharding],
    ) -> None:
        self._structs = [
            struct_of(program.values[value]) for value in program.arguments
        ]
        self.argument_shardings = (argument_sharding,) * len(self._structs)
        self.result_shardings = tuple(result_shardings)
        self._compiled = (
            jax.jit(
                lambda *arguments: _primitive.bind(
                    *arguments, program=_Carried(program)
                ),
                in_shardings=self.argument_shardings,
                out_shardings=list(result_shardings),
                keep_unused=True,
            )
            .lower(*self._structs)
            .compile()
        )

    def put(self, index: int, host_array: ArrayLike) -> jax.Array:
        """Places one argument on the devices."""
        array = np.asarray(host_array, dtype=self._structs[index].dtype)
        placed: jax.Array = jax.device_put(array, self.argument_shardings[index])
        return placed

    def __call__(self, arguments: Sequence[ArrayLike]) -> tuple[jax.Array, ...]:
        """Starts the program and returns at once."""
        return tuple(self._compiled(*arguments))

    def hlo_text(self) -> list[str]:
        """The compiled, partitioned HLO."""
        return [self._compiled.as_text() or ""]


class _Carried:
    """A program as a parameter of the primitive; compared by identity."""

    def __init__(self, program: Program) -> None:
        self.program = program


def _abstract(*_arguments: Any, program: _Carried) -> list[Any]:
    return [
        jax.core.ShapedArray(struct.shape, struct.dtype)
        for struct in result_structs(program.program)
    ]


def _lower(
    ctx: mlir.LoweringRuleContext, *arguments: Any, program: _Carried
) -> Sequence[Any]:
    host = ctx.module_context.module
    with host.context, ir.Location.unknown(host.context):
        module = parse(program.program.module)
    (main,) = (op for op in module.body.operations if isinstance(op, func.FuncOp))
    results = list(ir.FunctionType(main.function_type.value).results)
    name = mlir.merge_mlir_modules(
        host, _NAME, module, dst_symtab=ctx.module_context.symbol_table
    )
    called = func.CallOp(results, ir.FlatSymbolRefAttr.get(name), list(arguments))
    return list(called.results)


def _make_primitive() -> Primitive:
    primitive = Primitive(_NAME)
    primitive.multiple_results = True
    primitive.def_abstract_eval(_abstract)
    mlir.register_lowering(primitive, _lower)
    return primitive


_primitive = _make_primitive()
