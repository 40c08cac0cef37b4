"""MLIR modules: contexts, parsing, passes, bytes, HLO.

The one file of this package that touches private names of jaxlib. Functions that
take or return an `ir.Module` work in the current context (``with new_context():``).
Compiler messages end up in a `ProgramError`, not on the terminal.
"""

import io
import re
from functools import cache
from typing import Any, TypeAlias

import jaxlib.version
from jaxlib import _hlo, _jax  # type: ignore[attr-defined]
from jaxlib.mlir import ir
from jaxlib.mlir._mlir_libs import _jax_mlir_ext
from jaxlib.mlir.dialects import chlo, mhlo, mpmd, sdy, stablehlo
from jaxlib.mlir.passmanager import PassManager

from tepdist.errors import ProgramError, shortened
from tepdist.program.preparation import DAMAGED_HINT

BYTECODE_MAGIC = b"ML\xefR"
PORTABLE_PRODUCER = b"StableHLO_v"
TEXT_POSITION = re.compile(r'"-":(?P<line>\d+):(?P<column>\d+)')

AnyValue: TypeAlias = "ir.Value[Any]"


class _BareContext(ir.Context):
    """A context that has not loaded all dialects there are."""

    def __init__(self) -> None:
        super(ir.Context, self).__init__()


@cache
def _thread_pool() -> ir.ThreadPool:
    return ir.ThreadPool()


def new_context() -> ir.Context:
    """A context that knows every dialect a program may use.

    As JAX makes its own; importing JAX for it would take half a second.
    """
    context = _BareContext()
    registry = ir.DialectRegistry()
    _jax_mlir_ext.register_dialects(registry)
    context.append_dialect_registry(registry)
    context.load_all_available_dialects()
    context.set_thread_pool(_thread_pool())
    for dialect in (sdy, mpmd, chlo, stablehlo):
        dialect.register_dialect(context)
    mhlo.register_mhlo_dialect(context)
    return context


def jaxlib_version() -> str:
    """Version of the jaxlib that reads and writes modules here."""
    return str(jaxlib.version.__version__)


def current_version() -> str:
    """The newest StableHLO version that this jaxlib reads and writes."""
    return str(stablehlo.get_current_version())


def minimum_version() -> str:
    """The oldest StableHLO version that this jaxlib reads."""
    return str(stablehlo.get_minimum_version())


@cache
def portable_version() -> str:
    """The StableHLO version we write unless told: readers 12 weeks old know it."""
    requirement = stablehlo.StablehloCompatibilityRequirement.WEEK_12
    return str(stablehlo.get_version_from_compatibility_requirement(requirement))


def parse(data: str | bytes) -> ir.Module:
    """The verified module in MLIR text or bytecode.

    Raises:
        ProgramError: with the compiler's message and, for text, line:column.
    """
    try:
        return ir.Module.parse(data)
    except ir.MLIRError as error:
        raise mlir_error("the MLIR module cannot be read", error) from None


def run_passes(module: ir.Module, passes: str) -> None:
    """Runs ``a,b,func.func(c)`` on the module, in place.

    Nothing is verified in between, which took longer than the passes: whatever is
    parsed is, and what passes leave is written and parsed again.

    Raises:
        ProgramError: if a pass fails on this module.
    """
    try:
        manager = PassManager.parse(f"builtin.module({passes})")
        manager.enable_verifier(enable=False)
        manager.run(module.operation)
    except ir.MLIRError as error:
        raise mlir_error("the compiler refuses the program", error) from None


def canonical_bytecode(module: ir.Module) -> bytes:
    """Bytecode that is equal for modules that print alike.

    Bytecode keeps unseen traces of where a module came from (a default stated or left
    out), text does not: 0.8 s for the 55,000 ops of a 96-layer GPT.
    """
    text = str(module.operation.get_asm(enable_debug_info=True))
    with module.context:
        return to_bytecode(parse(text))


def to_bytecode(module: ir.Module) -> bytes:
    """MLIR bytecode of the module; equal modules give equal bytes."""
    stream = io.BytesIO()
    module.operation.write_bytecode(stream)
    return stream.getvalue()


def is_portable(data: bytes) -> bool:
    """Whether MLIR bytecode is a StableHLO portable artifact: its producer says so."""
    return data.startswith(BYTECODE_MAGIC) and PORTABLE_PRODUCER in data[:32]


def read_portable(data: bytes) -> ir.Module:
    """The module in a StableHLO portable artifact.

    Raises:
        ProgramError: if it is damaged or of a version that this jaxlib cannot read.
    """
    # The deserialiser prints its messages to stderr; parsing first finds all damage
    # to the bytes and keeps what it has to say in the exception.
    parse(data)
    try:
        context = ir.Context.current
        module: ir.Module = _jax.mlir.deserialize_portable_artifact(data, context)
    except _jax.JaxRuntimeError:
        producer = data[5:32].split(b"\0")[0].decode("ascii", "replace")
        raise ProgramError(
            f"the portable artifact of {producer} cannot be read",
            hint=f"this jaxlib reads StableHLO {minimum_version()} to "
            f"{current_version()}; export the program for one of them",
        ) from None
    return module


def write_portable(module: ir.Module, version: str) -> bytes:
    """The module as a StableHLO portable artifact of that version, e.g. ``1.13.7``.

    Raises:
        ProgramError: if that version is unknown or cannot say what the program does.
    """
    # The serialiser takes a version of the future for the current one.
    if not _is_known_version(version):
        raise ProgramError(
            f"StableHLO {version} is unknown here",
            hint=f"choose a version from {minimum_version()} to {current_version()}",
        )
    try:
        return bytes(_jax.mlir.serialize_portable_artifact(module, version))
    except (_jax.JaxRuntimeError, ValueError) as error:
        raise ProgramError(
            f"cannot write the program as StableHLO {version}: {shortened(str(error))}",
            hint=f"choose a version up to {current_version()}",
        ) from None


def _is_known_version(version: str) -> bool:
    try:
        lowest, asked, highest = (
            tuple(int(part) for part in text.split("."))
            for text in (minimum_version(), version, current_version())
        )
    except ValueError:
        return False
    return len(asked) == len(lowest) and lowest <= asked <= highest


def hlo_text_to_proto(text: str) -> bytes:
    """Serialised HloModuleProto of HLO text.

    Raises:
        ProgramError: with line:column of the first syntax error.
    """
    try:
        return bytes(_hlo.hlo_module_from_text(text).as_serialized_hlo_module_proto())
    except _jax.JaxRuntimeError as error:
        raise ProgramError(
            f"the HLO text cannot be read: {shortened(_hlo_syntax_error(str(error)))}",
            hint=DAMAGED_HINT,
        ) from None


def hlo_proto_to_module(data: bytes) -> ir.Module:
    """The StableHLO module of a serialised HloModuleProto.

    Raises:
        ProgramError: if the bytes are no HLO module or use what StableHLO lacks.
    """
    try:
        bytecode = _jax.mlir.hlo_to_stablehlo(data)
    except _jax.JaxRuntimeError as error:
        raise ProgramError(
            "the bytes are no text, no MLIR bytecode and no intact HloModuleProto: "
            + shortened(str(error)),
            hint=DAMAGED_HINT,
        ) from None
    return parse(bytecode)


def mlir_error(problem: str, error: ir.MLIRError) -> ProgramError:
    """The first thing that MLIR complained about, as a user's error."""
    diagnostics = error.error_diagnostics
    if not diagnostics:
        return ProgramError(problem, hint=DAMAGED_HINT)
    first = diagnostics[0]
    return ProgramError(
        f"{problem}: {shortened(first.message)}", where=_where(first), hint=DAMAGED_HINT
    )


def _where(diagnostic: "ir.DiagnosticInfo") -> str | None:
    """Line and column in the text; None for bytecode, whose positions are all 0."""
    position = TEXT_POSITION.search(str(diagnostic.location))
    if position is None or position["line"] == "0":
        return None
    return f"line {position['line']}, column {position['column']}"


def _hlo_syntax_error(message: str) -> str:
    """``... was parsing 3:4: error: MSG`` as ``3:4: MSG``, else the first line."""
    _, found, rest = message.partition("was parsing ")
    line = (rest if found else message).split("\n", 1)[0]
    return line.replace("error: ", "")
