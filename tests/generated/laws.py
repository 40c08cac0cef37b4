"""Runs a case on one device and as planned, and says where the two differ."""

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import jax
import numpy as np

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import Traced, trace
from tepdist.lowering.compiled import bytes_by_kind
from tepdist.plans.types import Options, Plan
from tepdist.runtime.local import Executable
from tepdist.sharding import Mesh

from .plans import random_plan
from .programs import Case

Constraints = Mapping[str, tuple[tuple[str, ...], ...]]

MESHES = ("2x4", "8", "4x2", "2x2", "4", "2x3", "3", "6", "1")
# On up to 16 devices.
MORE_MESHES = (*MESHES, "2", "3x2", "3x3", "2x6", "6x2", "4x3", "4x4", "8x2", "2x8")
# Payloads may differ by this share, and by scalars.
BYTES_TOLERANCE = 0.02
SCALAR_BYTES = 64


def plan_case(
    case: Case, mesh: str, *, constraints: Constraints = MappingProxyType({})
) -> tuple[Traced, Plan]:
    """The best plan for a case on a mesh of virtual CPU devices."""
    shape = Mesh.parse(mesh)
    options = Options(mesh=shape, time_limit_s=3, constraints=constraints)
    return plan_as_asked(case, f"cpu:{shape.num_devices}", options)


def plan_as_asked(case: Case, cluster: str, options: Options) -> tuple[Traced, Plan]:
    """The best plan for a case that does what the options ask."""
    traced = trace(case.fn, case.args, {})
    plan = compile_plan(
        traced.read(), traced.roles, parse_cluster(cluster), options=options
    )
    return traced, plan


def random_options(case: Case, best: Plan, rng: np.random.Generator) -> Options:
    """What a user may ask besides: a level, a stage of ZeRO, a limit, a constraint.

    The limit is near the least that plans of most programs need.
    """
    mesh = best.stages[0].mesh
    limit = None
    if rng.random() < 0.5:
        limit = int(best.stages[0].memory.peak * rng.choice((0.95, 0.7, 0.5, 0.3)))
    constraints: Constraints = {}
    if rng.random() < 0.4:
        constraints = random_constraint(case, str(mesh), rng)
    is_free = not constraints and best.program.mesh is None and rng.random() < 0.3
    return Options(
        level=str(rng.choice(("O1", "O2", "O2"))),
        mesh=None if is_free else mesh,
        time_limit_s=5,
        zero=int(rng.integers(4)) if rng.random() < 0.4 else None,
        memory_limit_bytes=limit,
        constraints=constraints,
    )


def random_constraint(case: Case, mesh: str, rng: np.random.Generator) -> Constraints:
    """Some argument sharded over some mesh axis, if an axis divides a dim of any."""
    traced = trace(case.fn, case.args, {})
    options = [
        (role.name, tuple((name,) if at == dim else () for at in range(len(shape))))
        for role, shape in zip(
            traced.roles.arguments,
            [np.shape(leaf) for leaf in traced.flatten(case.args, {})],
            strict=True,
        )
        for dim, extent in enumerate(shape)
        for name, size in Mesh.parse(mesh).axes
        if extent % size == 0
    ]
    return dict([options[int(rng.integers(len(options)))]]) if options else {}


def odd_plan(plan: Plan, seed: int) -> Plan:
    """A plan at random for the same program."""
    return random_plan(plan, np.random.default_rng(seed))


def one_device_results(case: Case) -> list[np.ndarray]:
    """What `jax.jit` computes on one device, or on those that the case states."""
    results = jax.jit(case.fn)(*case.args)
    return [_host(leaf) for leaf in jax.tree.leaves(results)]


def planned_results(
    traced: Traced, executable: Executable, case: Case
) -> list[np.ndarray]:
    """What the planned program computes."""
    flat = traced.flatten(case.args, {})
    results = executable([executable.put(i, x) for i, x in enumerate(flat)])
    return [_host(x) for x in jax.tree.leaves(traced.unflatten(results))]


def differences(
    case: Case, wanted: list[np.ndarray], got: list[np.ndarray]
) -> Iterator[str]:
    """Results that differ by more than the case's tolerance."""
    assert len(wanted) == len(got)
    for index, (one, other) in enumerate(zip(wanted, got, strict=True)):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        if not np.issubdtype(one.dtype, np.inexact):
            count = int(np.count_nonzero(one != other))
            if count:
                yield f"result {index}: {count} of {one.size} integers differ"
            continue
        if not np.array_equal(np.isfinite(one), np.isfinite(other)):
            yield f"result {index}: not finite in other places"
            continue
        finite = np.isfinite(one)
        scale = max(np.abs(one[finite]).max(initial=0), 1e-3)
        worst = np.abs(one[finite] - other[finite]).max(initial=0)
        if worst > case.tolerance * scale:
            yield f"result {index}: off by {worst:.2e}, the largest being {scale:.2e}"


def byte_differences(plan: Plan, executable: Executable) -> Iterator[str]:
    """Kinds of collectives of which other payloads are compiled than priced."""
    priced: Counter[str] = Counter()
    for collective in plan.stages[0].collectives:
        priced[collective.kind] += collective.bytes_ * collective.count
    compiled = bytes_by_kind(executable.hlo_text()[0])
    for kind in sorted({*priced, *compiled}):
        one, other = priced[kind], compiled.get(kind, 0)
        if abs(one - other) > max(BYTES_TOLERANCE * max(one, other), SCALAR_BYTES):
            yield f"{kind}: {one} B priced, {other} B compiled"


def _host(leaf: jax.Array) -> np.ndarray:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    if array.dtype.kind == "V" or array.dtype.name in ("bfloat16", "float16"):
        return array.astype(np.float32)
    return array
