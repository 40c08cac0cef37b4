"""Reading: every form gives the same program, and bad input a short error."""

import gzip
import random
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import mlir
from jaxlib import _hlo

from tepdist.errors import ProgramError
from tepdist.program import module as modules
from tepdist.program.export import portable_artifact
from tepdist.program.reader import custom_call_targets, read_program
from tepdist.program.roles import Role

IDENTITY = "func.func @main(%a: tensor<f32>) -> tensor<f32> { return %a : tensor<f32> }"


def forms(source) -> dict[str, bytes]:
    lowered = source.lower()
    hlo = lowered.as_text("hlo")
    proto = _hlo.hlo_module_from_text(hlo).as_serialized_hlo_module_proto()
    program, _ = read_program(source.bytecode(), name="step")
    return {
        "text": lowered.as_text().encode(),
        "bytecode": source.bytecode(),
        "normalised": program.module,
        "portable": portable_artifact(program),
        "hlo text": hlo.encode(),
        "hlo proto": proto,
        "hlo dump": b"\n" + protobuf_integer(len(proto)) + proto,
        "gzip": gzip.compress(source.bytecode()),
    }


def protobuf_integer(value: int) -> bytes:
    head, value = bytearray(), value
    while value >= 0x80:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*head, value])


def test_every_form_is_recognised_and_gives_the_same_types(source):
    expected = None
    for form, data in forms(source).items():
        if form.startswith("hlo") and source.name == "cholesky":
            continue  # a call of several results is a tuple in HLO
        program, _ = read_program(data, name=form)
        values = [*program.arguments, *program.results]
        types = [(program.values[v].shape, program.values[v].dtype) for v in values]
        expected = expected or types
        assert types == expected, form


def test_text_bytecode_and_artifact_give_the_same_graph(sources):
    for name in ("train_step", "scan", "top_k"):
        texts = forms(sources[name])
        programs = [
            read_program(texts[form], name="step")[0]
            for form in ("text", "bytecode", "normalised")
        ]
        graphs = [[(op.signature, op.operands) for op in p.ops] for p in programs]
        assert graphs[0] == graphs[1] == graphs[2]


@pytest.mark.parametrize("form", ["bytecode", "text", "hlo text", "hlo proto"])
def test_donation_is_read_as_state(sources, form):
    _, roles = read_program(forms(sources["train_step"])[form], name="step")
    assert [argument.role for argument in roles.arguments] == [
        Role.STATE,
        Role.STATE,
        Role.BATCH,
        Role.BATCH,
    ]
    assert [argument.donated for argument in roles.arguments] == [
        True,
        True,
        False,
        False,
    ]
    state = [argument.name for argument in roles.arguments[:2]]
    assert [result.replaces for result in roles.results] == [*state, None]
    assert [result.is_loss for result in roles.results] == [False, False, True]


def test_names_are_those_of_the_jax_tree():
    def step(state, batch):
        return {"w": state["w"] + batch[0].sum()}, state["w"].sum()

    arguments = {"w": jnp.ones((2, 3))}, (jnp.ones(4),)
    lowered = jax.jit(step, donate_argnums=0).lower(*arguments)
    data = mlir.module_to_bytecode(lowered.compiler_ir())
    program, roles = read_program(data, name="step")
    assert [argument.name for argument in roles.arguments] == ["state/w", "batch/0"]
    assert [result.name for result in roles.results] == ["result/0/w", "result/1"]
    assert [program.values[v].name for v in program.arguments] == ["state/w", "batch/0"]


def test_a_module_that_says_nothing_has_no_roles(sources):
    assert read_program(sources["scan"].bytecode(), name="step")[1] is None


def test_isolated_reading_gives_the_same_program(sources):
    data = sources["train_step"].bytecode()
    alone = read_program(data, name="step", isolated=True)
    assert alone == read_program(data, name="step")


def test_custom_calls_are_listed(sources):
    program, _ = read_program(sources["cholesky"].bytecode(), name="step")
    assert custom_call_targets(program) == {"lapack_spotrf_ffi"}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "the program is empty"),
        (b" \n", "the program is empty"),
        (bytes(range(256)), "no text, no MLIR bytecode and no intact HloModuleProto"),
        (b"ML\xefR", "cannot be read"),
        (b"\x1f\x8bnonsense", "the gzip file is damaged"),
        (b"HloModule m\nENTRY e {\n  oops\n}", "the HLO text cannot be read: 4:1"),
        (b"def step(x): return x", "the MLIR module cannot be read: .*'def'"),
        (IDENTITY.replace("@main", "@step").encode(), "no public function main .*step"),
        (
            (IDENTITY + IDENTITY.replace("@main", "@other")).encode(),
            "several public functions: main, other",
        ),
        (b"func.func private @main()", "no public function main"),
        (b"func.func @main(tensor<f32>) -> tensor<f32>", "no"),
    ],
)
def test_bad_input_is_refused(data, problem):
    with pytest.raises(ProgramError, match=problem) as caught:
        read_program(data, name="model.mlir")
    assert caught.value.where.startswith("model.mlir")
    assert caught.value.hint
    assert len(str(caught.value)) < 500


def test_a_syntax_error_has_line_and_column():
    text = IDENTITY.replace("return %a", "\n  return %b")
    with pytest.raises(ProgramError, match="undeclared SSA value") as caught:
        read_program(text.encode(), name="model.mlir")
    assert caught.value.where == "model.mlir, line 2, column 10"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("%a: tensor<?xf32>", r"argument 0 has the dynamic shape tensor<\?xf32>"),
        ('%a: tensor<?xf32> loc("x")', "argument x has the dynamic shape"),
        (
            "%a: tensor<1xi32>, %b: tensor<4xf32>",
            "a result of stablehlo.dynamic_reshape has the dynamic shape",
        ),
    ],
)
def test_a_dynamic_shape_is_refused_by_name(text, problem):
    body = """%0 = stablehlo.dynamic_reshape %b, %a
      : (tensor<4xf32>, tensor<1xi32>) -> tensor<?xf32>"""
    module = f"func.func @main({text}) {{ {body if '%b' in text else ''} return }}"
    with pytest.raises(ProgramError, match=problem) as caught:
        read_program(module.encode(), name="model.mlir")
    assert caught.value.hint


def test_an_unknown_op_is_refused():
    text = IDENTITY.replace("return", '"foo.bar"() : () -> () return')
    with pytest.raises(ProgramError, match="unregistered dialect"):
        read_program(text.encode(), name="model.mlir")


def test_a_callback_into_python_is_refused():
    def step(x):
        jax.debug.print("{}", x)
        return x + 1

    lowered = jax.jit(step).lower(jnp.ones(4))
    data = mlir.module_to_bytecode(lowered.compiler_ir())
    with pytest.raises(ProgramError, match="calls back into Python"):
        read_program(data, name="step")


def test_a_truncated_artifact_is_refused(sources, capfd):
    data = forms(sources["scan"])["portable"]
    for size in range(4, len(data), len(data) // 20):
        with pytest.raises(ProgramError):
            read_program(data[:size], name="step")
    assert capfd.readouterr() == ("", "")


def test_bytes_that_kill_the_compiler_are_refused(sources):
    data = sources["train_step"].bytecode()
    damaged = data.replace(b"main", b"ma\xffn").replace(b"relu", b"re\xffu")
    with pytest.raises(ProgramError) as caught:
        read_program(damaged, name="step", isolated=True)
    assert "damaged" in str(caught.value) or "main" in str(caught.value)


def nested(depth: int) -> bytes:
    branches = '%r = "stablehlo.case"(%p) ({' * depth
    ends = (
        "stablehlo.return %r : tensor<f32> }) : (tensor<i32>) -> tensor<f32> " * depth
    )
    text = f"""func.func @main(%p: tensor<i32>, %x: tensor<f32>) -> tensor<f32> {{
      {branches} %r = stablehlo.sine %x : tensor<f32> {ends}
      return %r : tensor<f32>
    }}"""
    return text.encode()


@pytest.mark.parametrize(
    ("depth", "problem"), [(500, "nest too deeply"), (5000, "the compiler died")]
)
def test_nesting_without_end_is_refused(depth, problem):
    assert len(read_program(nested(20), name="step")[0].ops) == 21
    with pytest.raises(ProgramError, match=problem):
        read_program(nested(depth), name="step", isolated=True)


FUZZ = """
import pathlib, random, sys
sys.path[:] = {path!r}
from tepdist.errors import ProgramError
from tepdist.program.reader import read_program
random.seed(0)
for number in range({count}):
    data = bytearray(pathlib.Path({file!r}).read_bytes())
    for _ in range(random.choice((1, 1, 2, 5))):
        start = random.randrange(len(data))
        match random.randrange(3):
            case 0:
                data[start] = random.randrange(128)
            case 1:
                del data[start : start + random.randrange(40)]
            case 2:
                other = random.randrange(len(data))
                data[start:start] = data[other : other + random.randrange(40)]
    try:
        read_program(bytes(data), name="fuzz")
    except ProgramError as error:
        assert len(str(error)) < 500, error
"""


@pytest.mark.parametrize("form", ["text", "hlo text"])
def test_mutated_text_is_read_or_refused_and_never_fatal(sources, tmp_path, form):
    file = tmp_path / "program"
    file.write_bytes(forms(sources["scan"])[form])
    script = FUZZ.format(path=sys.path, count=200, file=str(file))
    command = [sys.executable, "-c", script]
    child = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False
    )
    assert child.returncode == 0, child.stderr[-2000:]


@pytest.mark.slow
def test_mutated_binaries_are_read_or_refused_and_never_fatal(sources):
    generator = random.Random(0)
    for form in ("bytecode", "portable", "hlo proto"):
        data = forms(sources["scan"])[form]
        for _ in range(20):
            mutated = bytearray(data)
            for _ in range(generator.choice((1, 1, 2, 5))):
                mutated[generator.randrange(len(data))] = generator.randrange(256)
            try:
                read_program(bytes(mutated), name="fuzz", isolated=True)
            except ProgramError as error:
                assert len(str(error)) < 500


def test_versions_are_ordered():
    def numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    oldest, written, newest = (
        numbers(version())
        for version in (
            modules.minimum_version,
            modules.portable_version,
            modules.current_version,
        )
    )
    assert oldest <= written <= newest
