"""Reads a program in any of the forms it may come in, recognised by content.

MLIR text and bytecode, StableHLO portable artifacts, HLO text, HloModuleProto (also
inside the HloProto of an XLA dump), each also gzipped.

MLIR and protobuf end the process on some damaged binaries, and on text that nests too
deeply. Bytes from outside are therefore read with ``isolated=True``: in a child.
"""

import functools
import gzip
import zlib
from dataclasses import replace

from jaxlib.mlir import ir

from tepdist.errors import ProgramError
from tepdist.program import module as modules
from tepdist.program.aliases import Aliases, read_aliases
from tepdist.program.extract import extract
from tepdist.program.graph import CUSTOM_CALL, Program
from tepdist.program.infer import infer_roles
from tepdist.program.inline import find_ops
from tepdist.program.isolated import Prepared, prepared_by
from tepdist.program.normalise import normalise
from tepdist.program.partitioned import number_calls
from tepdist.program.preparation import DAMAGED_HINT, Preparation, preparing
from tepdist.program.roles import Roles
from tepdist.program.round_trip import import_shardy

GZIP_MAGIC = b"\x1f\x8b"
PROTO_FIELD_1 = b"\n"
HLO_TEXT_START = "HloModule"
CALLBACK = "callback"
FORMATS = "StableHLO text, bytecode or portable artifact, HLO text or HloModuleProto"


def read_program(
    data: bytes | Preparation, *, name: str, isolated: bool = False
) -> tuple[Program, Roles | None]:
    """The normalised program, and its roles if the module says anything about them.

    Args:
        data: Content of the file, whatever its format, or a child that reads it.
        name: Of the program, for people and in errors.
        isolated: Whether no bytes whatever may end this process; costs the start of
            another, about 1 s.

    Raises:
        ProgramError: if the bytes are no program or one that cannot be planned.
    """
    try:
        program, aliases = _read(data, name, isolated=isolated)
    except ProgramError as error:
        where = f"{name}, {error.where}" if error.where else name
        raise ProgramError(error.problem, where=where, hint=error.hint) from None
    except RecursionError:
        raise ProgramError(
            "loops and branches nest too deeply",
            where=name,
            hint="write nested control flow flatter, or as one loop",
        ) from None
    program = name_arguments(program, aliases.argument_names)
    return program, _stated_roles(program, aliases)


def _read(
    data: bytes | Preparation, name: str, *, isolated: bool
) -> tuple[Program, Aliases]:
    if isinstance(data, Preparation):
        return _read_apart(data, name)
    if isolated:
        with preparing(data) as preparation:
            return _read_apart(preparation, name)
    return _read_here(data, name)


def _read_here(data: bytes, name: str) -> tuple[Program, Aliases]:
    prepared = prepare(data)
    return extract(prepared.bytecode(), name), prepared.aliases


def _read_apart(preparation: Preparation, name: str) -> tuple[Program, Aliases]:
    """Reads the draft while the child makes it canonical, which rarely changes it."""
    prepared = prepared_by(preparation)
    draft = prepared.draft()
    program = extract(draft, name)
    bytecode = prepared.bytecode()
    if bytecode != draft:
        program = extract(bytecode, name)
    return program, prepared.aliases


def prepare(data: bytes) -> Prepared:
    """The normalised module in the bytes, and its aliases.

    Raises:
        ProgramError: if the bytes are no program or one that cannot be planned.
    """
    with modules.new_context():
        module = read_module(data)
        custom_calls = find_ops(module, {CUSTOM_CALL})
        import_shardy(module, custom_calls)
        aliases = read_aliases(module)
        if custom_calls:
            number_calls(module)
            normalise(module)
            _refuse_callbacks(module)
        else:
            normalise(module)
    return Prepared(
        functools.partial(modules.to_bytecode, module),
        functools.partial(modules.canonical_bytecode, module),
        aliases,
    )


def read_module(data: bytes) -> ir.Module:
    """The module as it stands, in the current context.

    Raises:
        ProgramError: if the bytes are in none of the formats, or are damaged.
    """
    if data.startswith(GZIP_MAGIC):
        data = _unzip(data)
    if not data.strip():
        raise ProgramError("the program is empty", hint=f"give {FORMATS}")
    if modules.is_portable(data):
        return modules.read_portable(data)
    if data.startswith(modules.BYTECODE_MAGIC):
        return _read_bytecode(data)
    text = _text(data)
    if text is None:
        return modules.hlo_proto_to_module(_without_dump(data))
    if HLO_TEXT_START in text[:10_000]:
        proto = modules.hlo_text_to_proto(text)
        return modules.hlo_proto_to_module(proto)
    return modules.parse(text)


def _read_bytecode(data: bytes) -> ir.Module:
    try:
        return modules.parse(data)
    except ProgramError as error:
        hint = "only the jaxlib that wrote bytecode is sure to read it; export instead"
        raise ProgramError(error.problem, where=error.where, hint=hint) from None


def name_arguments(program: Program, names: tuple[str, ...]) -> Program:
    """The program with its argument values renamed, in order.

    A name that a value inside the program has already gets a ``~``.
    """
    values = list(program.values)
    arguments = frozenset(program.arguments)
    taken = {value.name for value in values if value.index not in arguments}
    for index, name in zip(program.arguments, names, strict=True):
        free = f"{name}~" if name in taken else name
        values[index] = replace(values[index], name=free)
    return replace(program, values=tuple(values))


def custom_call_targets(program: Program) -> frozenset[str]:
    """Targets of all custom calls in the program."""
    with modules.new_context():
        return _targets(modules.parse(program.module))


def _stated_roles(program: Program, aliases: Aliases) -> Roles | None:
    return infer_roles(program, aliases) if aliases.says_something else None


def _refuse_callbacks(module: ir.Module) -> None:
    callbacks = sorted(target for target in _targets(module) if CALLBACK in target)
    if callbacks:
        raise ProgramError(
            f"the program calls back into Python on its host: {', '.join(callbacks)}",
            hint="take debug prints and callbacks out of the step",
        )


def _targets(module: ir.Module) -> frozenset[str]:
    calls = find_ops(module, {CUSTOM_CALL})
    return frozenset(
        ir.StringAttr(call.attributes["call_target_name"]).value for call in calls
    )


def _unzip(data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ProgramError(
            f"the gzip file is damaged: {error}", hint=DAMAGED_HINT
        ) from None


def _without_dump(data: bytes) -> bytes:
    """The HloModuleProto inside an XLA dump's HloProto; other bytes as they are.

    Both start with field 1: here a message, whose own field 1 is the module's name.
    """
    if data[:1] != PROTO_FIELD_1:
        return data
    size, start = _varint(data, 1)
    inner = data[start : start + size]
    looks_nested = len(inner) == size and inner[:1] == PROTO_FIELD_1
    return inner if looks_nested else data


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """Protobuf's integer at `start`, and where it ends."""
    value = 0
    for number, byte in enumerate(data[start : start + 10]):
        value |= (byte & 0x7F) << (7 * number)
        if byte < 0x80:
            return value, start + number + 1
    return 0, start


def _text(data: bytes) -> str | None:
    """The bytes as text; None if they are none: control characters, no UTF-8."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    is_text = all(c.isprintable() or c.isspace() for c in text[:10_000])
    return text if is_text else None
