"""Plans of a small program, with shardings drawn at random."""

import random
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.plans.types import (
    Collective,
    Options,
    Plan,
    Predicted,
    SearchRecord,
    Stage,
    StageMemory,
)
from tepdist.program.fingerprint import fingerprint
from tepdist.program.graph import Program
from tepdist.program.reader import name_arguments, read_program
from tepdist.program.roles import ArgumentRole, ResultRole, Role, Roles
from tepdist.sharding import Mesh, Sharding

ROLES = Roles(
    arguments=(
        ArgumentRole("params/h/0/w", Role.STATE, donated=True),
        ArgumentRole("params/h/1/w", Role.STATE, donated=True),
        ArgumentRole("x", Role.BATCH, batch_dim=0),
    ),
    results=(
        ResultRole("params/h/0/w", replaces="params/h/0/w"),
        ResultRole("params/h/1/w", replaces="params/h/1/w"),
        ResultRole("loss", is_loss=True),
    ),
)


@pytest.fixture(scope="session")
def program() -> Program:
    def loss(params: list[jax.Array], x: jax.Array) -> jax.Array:
        return jnp.mean((jnp.tanh(x @ params[0]) @ params[1]) ** 2)

    def step(
        first: jax.Array, second: jax.Array, x: jax.Array
    ) -> tuple[jax.Array, ...]:
        value, (d_first, d_second) = jax.value_and_grad(loss)([first, second], x)
        return first - d_first, second - d_second, value

    shapes = [
        jax.ShapeDtypeStruct(shape, "float32") for shape in ((8, 16), (16, 8), (32, 8))
    ]
    text = jax.jit(step).lower(*shapes).as_text()
    read, _ = read_program(text.encode(), name="two layers")
    return name_arguments(read, tuple(role.name for role in ROLES.arguments))


@pytest.fixture(scope="session")
def make_plan(program: Program) -> Callable[..., Plan]:
    """``make_plan(random, mesh)``: a plan that keeps every sharding's rank."""

    def make(draw: random.Random, mesh: Mesh) -> Plan:
        def sharding(index: int) -> Sharding:
            dims: list[list[str]] = [[] for _ in program.values[index].shape]
            for axis in mesh.names:
                if dims and draw.random() < 0.5:
                    draw.choice(dims).append(axis)
            return Sharding(tuple(tuple(dim) for dim in dims))

        stage = Stage(
            index=0,
            devices=tuple(range(mesh.num_devices)),
            mesh=mesh,
            values=tuple(sharding(value.index) for value in program.values),
            operands=tuple(
                tuple(sharding(index) for index in op.operands) for op in program.ops
            ),
            results=tuple(sharding(index) for index in program.results),
            memory=StageMemory(1024, 512, 256, 128, 1920, 2048),
            collectives=(
                Collective(
                    phase="backward",
                    kind="all_reduce",
                    mesh_axes=mesh.names[:1],
                    bytes_=512,
                    count=2,
                    seconds=draw.random(),
                    value=program.values[-1].name,
                    op=len(program.ops) - 1,
                ),
            ),
            compute_s=draw.random(),
            replicated_ops=("custom_call.7",),
        )
        return Plan(
            program=program,
            roles=ROLES,
            fingerprint=fingerprint(program, ROLES),
            cluster=parse_cluster(f"cpu:{mesh.num_devices}"),
            options=Options(
                mesh=draw.choice([None, mesh]),
                memory_limit_bytes=draw.choice([None, 2**30]),
                constraints={"params/*": ((), mesh.names)},
            ),
            search=SearchRecord(
                level="O2",
                seconds=0.25,
                phases={"build": 0.2, "solve": 0.05},
                cost_s=0.011,
                lower_bound_s=draw.choice([None, 0.01]),
                num_candidates=3,
            ),
            predicted=Predicted(
                step_time_s=0.011,
                compute_s=0.01,
                communication_s=0.001,
                exposed_communication_s=0.001,
                bubble_fraction=0.0,
                model_flops=2.5e6,
                mfu=0.25,
                memory_per_device_bytes=1920,
            ),
            stages=(stage,),
        )

    return make
