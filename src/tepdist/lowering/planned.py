"""A planned program as a JAX function: one primitive that lowers to our module.

Public JAX only: the module becomes a private function of the module that `jax.jit`
is lowering, so dispatch, donation and placement are JAX's own.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from tepdist.errors import PlanError
from tepdist.lowering.spmd import annotate
from tepdist.plans.types import Stage
from tepdist.program.graph import Program
from tepdist.program.module import parse
from tepdist.program.partitioned import fill_calls
from tepdist.program.sums import inline_sums

_NAME = "planned"


@dataclass(frozen=True, eq=False, slots=True)
class Callbacks:
    """What partitions the calls in a program that their authors partition.

    Attributes:
        keys: By which JAX finds it, in the order of the calls.
        alive: What keeps it in this process.
    """

    keys: tuple[str, ...]
    alive: object = field(repr=False)


@dataclass(frozen=True, eq=False, slots=True)
class PlannedProgram:
    """What the primitive carries; compared by identity.

    Attributes:
        program: What runs.
        stage: Its shardings; None leaves them to the compiler.
        results: Shape and dtype of each result.
        callbacks: Of this process; None for a program that has no use for them.
    """

    program: Program
    stage: Stage | None
    results: tuple[jax.ShapeDtypeStruct, ...]
    callbacks: Callbacks | None = None


def call(planned: PlannedProgram, arguments: Sequence[jax.Array]) -> list[jax.Array]:
    """Binds the program to traced arguments; under `jax.jit` only."""
    results: list[jax.Array] = _primitive.bind(*arguments, planned=planned)
    return results


def _abstract(*_arguments: Any, planned: PlannedProgram) -> list[Any]:
    return [
        jax.core.ShapedArray(result.shape, result.dtype) for result in planned.results
    ]


def _refuse_eager(*_arguments: Any, planned: PlannedProgram) -> list[Any]:
    raise PlanError(
        "a planned program runs under jax.jit only",
        where=planned.program.name,
        hint="jax.jit(plan.constrain(fn), in_shardings=plan.in_shardings(mesh), ...)",
    )


def _refuse_transform(
    transform: str, *_arguments: Any, planned: PlannedProgram
) -> list[Any]:
    raise PlanError(
        f"a planned program cannot be {transform}: only what was planned has a place",
        where=planned.program.name,
        hint="do that inside the function, and plan the whole",
    )


def _lower(
    ctx: mlir.LoweringRuleContext, *arguments: Any, planned: PlannedProgram
) -> Sequence[Any]:
    host = ctx.module_context.module
    stage = planned.stage
    # For one device XLA leaves what is to run on each as a call that nobody answers.
    if stage is None or stage.mesh.num_devices == 1:
        with host.context, ir.Location.unknown(host.context):
            module = parse(planned.program.module)
            inline_sums(module)
    else:
        module = annotate(planned.program, stage, host.context)
    fill_calls(module, planned.callbacks.keys if planned.callbacks else ())
    (main,) = (op for op in module.body.operations if isinstance(op, func.FuncOp))
    results = ir.FunctionType(main.function_type.value).results
    name = mlir.merge_mlir_modules(
        host, _NAME, module, dst_symtab=ctx.module_context.symbol_table
    )
    called = func.CallOp(results, ir.FlatSymbolRefAttr.get(name), list(arguments))
    return list(called.results)


def _make_primitive() -> Primitive:
    primitive = Primitive(_NAME)
    primitive.multiple_results = True
    primitive.def_abstract_eval(_abstract)
    primitive.def_impl(_refuse_eager)
    ad.primitive_jvps[primitive] = functools.partial(
        _refuse_transform, "differentiated"
    )
    batching.primitive_batchers[primitive] = functools.partial(
        _refuse_transform, "batched by vmap"
    )
    mlir.register_lowering(primitive, _lower)
    return primitive


_primitive = _make_primitive()
