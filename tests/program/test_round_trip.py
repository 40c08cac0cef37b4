"""Shardings and manual regions survive the ways in which programs travel."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.interpreters import mlir
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tepdist.errors import ProgramError
from tepdist.program import module as modules
from tepdist.program.graph import CONSTRAINT, MANUAL
from tepdist.program.reader import prepare, read_program
from tepdist.sharding import Mesh


@pytest.fixture(scope="module")
def lowered():
    """A program that states everything: on arguments, on values, in regions."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    def body(x, y):
        gathered = lax.all_gather(x, "b", axis=1, tiled=True)
        return lax.psum(gathered, "a"), lax.ppermute(y, "b", [(0, 1), (1, 0)])

    def nothing_in():
        return 1.0 * lax.axis_index("b")[None]

    def fn(x, y):
        x = lax.with_sharding_constraint(
            jnp.sin(x), NamedSharding(mesh, P("a", P.UNCONSTRAINED))
        )
        first, second = jax.shard_map(
            body,
            mesh=mesh,
            in_specs=(P("a", "b"), P("b")),
            out_specs=(P(None, None), P("b")),
            check_vma=False,
        )(x, y)
        numbers = jax.shard_map(
            nothing_in, mesh=mesh, in_specs=(), out_specs=P("b"), axis_names={"b"}
        )()
        return first, second + numbers

    shardings = (NamedSharding(mesh, P("a")), None)
    return jax.jit(fn, in_shardings=shardings).lower(jnp.ones((8, 8)), jnp.ones(4))


def portable(bytecode: bytes) -> bytes:
    with modules.new_context():
        return modules.write_portable(
            modules.parse(bytecode), modules.portable_version()
        )


def test_a_portable_artifact_says_the_same(lowered):
    direct = mlir.module_to_bytecode(lowered.compiler_ir())
    assert prepare(portable(direct)).bytecode() == prepare(direct).bytecode()


def test_a_normalised_program_travels_as_well(lowered):
    once = prepare(mlir.module_to_bytecode(lowered.compiler_ir())).bytecode()
    assert prepare(portable(once)).bytecode() == once


def test_hlo_says_the_same(lowered):
    program, _ = read_program(lowered.as_text(dialect="hlo").encode(), name="hlo")
    direct, _ = read_program(
        mlir.module_to_bytecode(lowered.compiler_ir()), name="direct"
    )
    assert program.mesh == direct.mesh == Mesh((("a", 2), ("b", 4)))
    assert program.argument_rules == direct.argument_rules
    for kind in (CONSTRAINT, MANUAL):
        rules = [
            [op.rule for op in each.ops if op.kind == kind]
            for each in (program, direct)
        ]
        assert rules[0] == rules[1] != []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("xla.sdy.manual_axes", "xla.sdy.other"),
        ("xla.sdy.GlobalToLocalShape", "Sine"),
        ("#sdy<manual_axes", "#sdy<many_axes"),
    ],
)
def test_damage_is_refused(lowered, before, after):
    with modules.new_context():
        artifact = portable(mlir.module_to_bytecode(lowered.compiler_ir()))
        text = str(modules.read_portable(artifact))
    with pytest.raises(ProgramError):
        prepare(text.replace(before, after).encode())
