"""Foreign programs made ready for the server's devices: read, plan, compile.

Knows no sockets and no sessions.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import jax
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from tepdist.cluster.model import Cluster
from tepdist.compiler import compile_plan
from tepdist.errors import ProgramError, StateError
from tepdist.plans.json import to_json
from tepdist.plans.types import Options, Plan
from tepdist.program.graph import Program
from tepdist.program.infer import infer_roles
from tepdist.program.reader import (
    custom_call_targets,
    name_arguments,
    read_program,
)
from tepdist.program.roles import Roles
from tepdist.program.sidecar import check_roles
from tepdist.runtime.compiled import CompiledProgram
from tepdist.runtime.local import Executable
from tepdist.service.held import LoadedProgram, Runnable
from tepdist.service.tensors import Spec

# What a foreign program may call: the compilers' own kernels. Nothing that leads
# back into a Python process, a file or a plug-in of the server's.
ALLOWED_CUSTOM_CALLS = (
    "Sharding",
    "SPMDFullToShardShape",
    "SPMDShardToFullShape",
    "ApproxTopK",
    "PartialReduce",
    "mhlo.*",
    "chlo.*",
    "stablehlo.*",
    "lapack_*",
    "cusolver_*",
    "cublas_*",
    "cudnn_*",
    "cu_threefry2x32*",
    "hipsolver_*",
    "hipblas_*",
    "hip_threefry2x32*",
    "__cudnn$*",
)

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Target:
    """Where an init program's results go.

    Attributes:
        program: Whose arguments they will be; None for no program yet.
        arguments: For each result the position among those; None if it is none.
    """

    program: LoadedProgram | None
    arguments: tuple[int | None, ...]


class Engine:
    """The devices and what runs on them.

    Args:
        cluster: What plans are made for.
        devices: Its devices, in order.
        plans_dir: Where plans are kept for people, by fingerprint; None to keep none.
    """

    def __init__(
        self, cluster: Cluster, devices: Sequence[jax.Device], plans_dir: Path | None
    ) -> None:
        self.cluster = cluster
        self.devices = tuple(devices)
        self._plans_dir = plans_dir
        # The solver and the compiler are made for one caller at a time.
        self.planner = ThreadPoolExecutor(1, thread_name_prefix="tepdist-planner")

    def load(
        self,
        module: bytes,
        roles: Roles | None,
        options: Options,
        *,
        name: str,
        progress: Progress,
    ) -> LoadedProgram:
        """Plans and compiles a program.

        Raises:
            TepdistError: whatever is wrong with it.
        """
        program, roles = _read(module, roles, name)
        plan = compile_plan(
            program, roles, self.cluster, options=options, progress=progress
        )
        progress("compile", 0.0)
        executable = _compiled(lambda: Executable(plan, self.devices))
        progress("compile", 1.0)
        text = to_json(plan)
        self._keep(plan, text)
        return _loaded(
            program,
            plan.roles,
            executable,
            plan_json=text,
            fingerprint=plan.fingerprint,
        )

    def load_init(
        self, module: bytes, roles: Roles | None, target: Target, *, name: str
    ) -> LoadedProgram:
        """Compiles a program whose results come out where another wants them.

        Raises:
            TepdistError: whatever is wrong with it, or a result is of another shape
                or dtype than the argument it is for.
        """
        program, roles = _read(module, roles, name)
        own = _specs(program, program.results)
        default: Sharding = SingleDeviceSharding(self.devices[0])
        shardings = [default] * len(own)
        if target.program is not None:
            _check_target(target, target.program, own)
            wanted = target.program.executable.argument_shardings
            default = _replicated_like(wanted, default)
            shardings = [
                default if position is None else wanted[position]
                for position in target.arguments
            ]
        executable = _compiled(
            # Not planned: an init program draws numbers and casts them, each shard on
            # its own device, once the compiler is told where the results go.
            lambda: CompiledProgram(
                program,
                None,
                argument_shardings=[default] * len(program.arguments),
                result_shardings=shardings,
            )
        )
        return _loaded(program, roles, executable)

    def _keep(self, plan: Plan, text: str) -> None:
        if self._plans_dir is not None:
            file = self._plans_dir / f"{plan.fingerprint}.json"
            file.write_text(text, encoding="utf-8")

    def close(self) -> None:
        self.planner.shutdown(cancel_futures=True)


def _read(module: bytes, roles: Roles | None, name: str) -> tuple[Program, Roles]:
    program, found = read_program(module, name=name, isolated=True)
    foreign = [
        target
        for target in custom_call_targets(program)
        if not any(fnmatchcase(target, known) for known in ALLOWED_CUSTOM_CALLS)
    ]
    if foreign:
        raise ProgramError(
            f"custom call {foreign[0]!r} may not run on a server",
            hint="host callbacks and kernels of your own work in one process only",
        )
    if roles is None:
        return program, found or infer_roles(program)
    check_roles(program, roles)
    return name_arguments(program, tuple(role.name for role in roles.arguments)), roles


def _compiled(make: Callable[[], Runnable]) -> Runnable:
    """Makes an executable for a program of any dtypes."""
    with jax.enable_x64():
        return make()


def _loaded(
    program: Program,
    roles: Roles,
    executable: Runnable,
    *,
    plan_json: str | None = None,
    fingerprint: str | None = None,
) -> LoadedProgram:
    arguments = _specs(program, program.arguments)
    results = _specs(program, program.results)
    return LoadedProgram(
        name=program.name,
        fingerprint=fingerprint,
        arguments=tuple(zip(roles.arguments, arguments, strict=True)),
        results=tuple(zip(roles.results, results, strict=True)),
        plan_json=plan_json,
        executable=executable,
    )


def _specs(program: Program, values: Sequence[int]) -> tuple[Spec, ...]:
    return tuple(
        Spec(program.values[value].dtype, program.values[value].shape)
        for value in values
    )


def _check_target(
    target: Target, program: LoadedProgram, results: Sequence[Spec]
) -> None:
    if len(target.arguments) != len(results):
        raise StateError(
            f"the init program has {len(results)} results; places are stated for "
            f"{len(target.arguments)}"
        )
    for index, (position, own) in enumerate(
        zip(target.arguments, results, strict=True)
    ):
        if position is None:
            continue
        if position >= len(program.arguments):
            raise StateError(f"{program.name!r} has no argument {position}")
        role, spec = program.arguments[position]
        if spec != own:
            raise StateError(
                f"result {index} of the init program is {own}; argument {role.name} of "
                f"{program.name!r} is {spec}",
                where=role.name,
            )


def _replicated_like(wanted: Sequence[Sharding], default: Sharding) -> Sharding:
    """Whole on every device of these shardings."""
    for sharding in wanted:
        if isinstance(sharding, NamedSharding):
            return NamedSharding(sharding.mesh, PartitionSpec())
    return default
