"""A program compiled for this process's devices: placed, run, read back as text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np
from jax.stages import Compiled
from jax.stages import Wrapped as JitWrapped
from jax.typing import ArrayLike

from tepdist.errors import ProgramError, shortened
from tepdist.lowering.dtypes import BELOW_A_BYTE, result_structs, struct_of
from tepdist.lowering.planned import Callbacks, PlannedProgram, call
from tepdist.plans.types import Stage
from tepdist.program.graph import Program


class CompiledProgram:
    """One compiled program.

    Attributes:
        argument_shardings: Where each argument must lie, in the program's order.
        result_shardings: Where each result comes out.
    """

    def __init__(
        self,
        program: Program,
        stage: Stage | None,
        *,
        argument_shardings: Sequence[jax.sharding.Sharding],
        result_shardings: Sequence[jax.sharding.Sharding],
        donated: Sequence[int] = (),
        callbacks: Callbacks | None = None,
    ) -> None:
        """Compiles a program.

        Args:
            program: What runs.
            stage: Sharding of everything in it; None leaves that to the compiler.
            argument_shardings: Of each argument.
            result_shardings: Of each result.
            donated: Positions of arguments whose buffers results may take.
            callbacks: Of functions that their authors partition.

        Raises:
            ProgramError: if the devices' compiler refuses the program, or ends the
                process with such programs.
        """
        self.argument_shardings = tuple(argument_shardings)
        self.result_shardings = tuple(result_shardings)
        _refuse_two_bits(program, (*argument_shardings, *result_shardings))
        self._structs = placed_structs(program, self.argument_shardings)
        jitted = jitted_program(
            program,
            stage,
            argument_shardings=self.argument_shardings,
            result_shardings=self.result_shardings,
            donated=donated,
            callbacks=callbacks,
        )
        with refusals_told(program):
            self._compiled = jitted.lower(*self._structs).compile()
        # What is compiled ahead refuses arguments below a byte for their layout (jax
        # 0.10 to 0.12); by way of `jax.jit` the same executable takes them.
        dtypes = {program.values[value].dtype for value in program.arguments}
        self._run = self._compiled if dtypes.isdisjoint(BELOW_A_BYTE) else jitted

    def put(self, index: int, host_array: ArrayLike) -> jax.Array:
        """Places one argument on the devices, in shards."""
        array = np.asarray(host_array, dtype=self._structs[index].dtype)
        placed: jax.Array = jax.device_put(array, self.argument_shardings[index])
        return placed

    def __call__(self, arguments: Sequence[ArrayLike]) -> tuple[jax.Array, ...]:
        """Starts one run and returns at once; donated arguments are consumed.

        Args:
            arguments: Arrays where `argument_shardings` says; host arrays of the
                program's dtypes may stand for arguments that are not donated.
        """
        return tuple(self._run(*arguments))

    def hlo_text(self) -> list[str]:
        """The compiled, partitioned HLO of each stage program."""
        return [self._compiled.as_text() or ""]

    def peak_bytes(self) -> int | None:
        """What the compiler allocates on one device [B]; None if it does not say."""
        return peak_bytes(self._compiled)


def jitted_program(
    program: Program,
    stage: Stage | None,
    *,
    argument_shardings: Sequence[jax.sharding.Sharding],
    result_shardings: Sequence[jax.sharding.Sharding],
    donated: Sequence[int],
    callbacks: Callbacks | None = None,
) -> JitWrapped:
    """A program as a function under `jax.jit`; arguments as for `CompiledProgram`."""
    planned = PlannedProgram(program, stage, result_structs(program), callbacks)
    jitted: JitWrapped = jax.jit(
        lambda *arguments: call(planned, arguments),
        in_shardings=tuple(argument_shardings),
        out_shardings=list(result_shardings),
        donate_argnums=tuple(donated),
        keep_unused=True,
    )
    return jitted


def placed_structs(
    program: Program, shardings: Sequence[jax.sharding.Sharding]
) -> list[jax.ShapeDtypeStruct]:
    """Shape, dtype and place of each argument."""
    return [
        struct_of(program.values[value]).update(sharding=sharding)
        for value, sharding in zip(program.arguments, shardings, strict=True)
    ]


@contextmanager
def refusals_told(program: Program) -> Iterator[None]:
    """What the compiler refuses comes out as a `ProgramError`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise ProgramError(
            f"XLA cannot compile the program: {shortened(str(error))}",
            where=program.name,
            hint="custom calls run only where their library is registered",
        ) from None


def peak_bytes(compiled: Compiled) -> int | None:
    """What a compiled program allocates on one device [B]; None if it does not say."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def _refuse_two_bits(
    program: Program, shardings: Sequence[jax.sharding.Sharding]
) -> None:
    """Refuses types of two bits on several CPU devices.

    An all-gather of them writes beyond its buffers there, which ends the process or
    gives wrong numbers (jax 0.10.2 and 0.12.0).
    """
    devices: set[jax.Device] = set().union(*(each.device_set for each in shardings))
    if len(devices) < 2 or any(device.platform != "cpu" for device in devices):
        return
    for value in program.values:
        if value.dtype in ("i2", "ui2"):
            raise ProgramError(
                f"{value.name} is of {value.dtype}, which XLA cannot move between CPU "
                "devices",
                where=program.name,
                hint="use i4 or i8, or one device",
            )
