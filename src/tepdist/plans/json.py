"""A plan as JSON text and back: self-sufficient, with stable keys.

The text holds the normalised program's bytes; reading it extracts the graph from them
again and never normalises. Shardings stand once each in a table per stage, and values
and operands are indices into it. This file does no I/O.
"""

import base64
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tepdist.cluster.files import cluster_from_dict, cluster_to_dict
from tepdist.cluster.model import Cluster
from tepdist.errors import ClusterError, PlanError, ProgramError
from tepdist.plans.codec import Json, decode, encode, look_up
from tepdist.plans.types import (
    FORMAT_VERSION,
    Collective,
    Options,
    Plan,
    Predicted,
    SearchRecord,
    Stage,
    StageMemory,
)
from tepdist.program.extract import extract
from tepdist.program.fingerprint import fingerprint
from tepdist.program.graph import Program, Value
from tepdist.program.reader import name_arguments
from tepdist.program.roles import ArgumentRole, ResultRole, Roles
from tepdist.sharding import Mesh, Sharding


@dataclass(frozen=True, slots=True)
class _Placement:
    """Where one stage has an argument or a result."""

    stage: int
    sharding: Sharding


def to_json(plan: Plan) -> str:
    """The plan as JSON, one line for each key at the top."""
    program = plan.program
    document: dict[str, Json] = {
        "format_version": FORMAT_VERSION,
        "program": {
            "name": program.name,
            "num_ops": len(program.ops),
            "fingerprint": plan.fingerprint,
            "jaxlib_version": program.jaxlib_version,
            "module": base64.b64encode(zlib.compress(program.module)).decode("ascii"),
        },
        "cluster": cluster_to_dict(plan.cluster),
        "options": encode(plan.options),
        "search": encode(plan.search),
        "predicted": encode(plan.predicted),
        "schedule": {
            "name": plan.schedule,
            "num_micro_batches": plan.num_micro_batches,
        },
        "stages": [_encode_stage(stage) for stage in plan.stages],
        "arguments": [*_encode_arguments(plan)],
        "results": [*_encode_results(plan)],
    }
    lines = (
        f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}"
        for key, value in document.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def from_json(text: str) -> Plan:
    """The plan that `to_json` wrote.

    Raises:
        PlanError: if the text is not a plan of this format version, or its parts do
            not fit each other.
    """
    document = _parse(text)
    roles = Roles(
        look_up(tuple[ArgumentRole, ...], document, "arguments"),
        look_up(tuple[ResultRole, ...], document, "results"),
    )
    program = _decode_program(document)
    _expect_count(roles.arguments, program.arguments, "arguments")
    _expect_count(roles.results, program.results, "results")
    names = tuple(argument.name for argument in roles.arguments)
    program = name_arguments(program, names)
    stages = look_up(list, document, "stages")
    if not stages:
        raise PlanError("the plan has no stages")
    stated = look_up(str, document, "program.fingerprint")
    if stated != fingerprint(program, roles):
        raise PlanError("the plan's program or roles do not match its fingerprint")
    plan = Plan(
        program=program,
        roles=roles,
        fingerprint=stated,
        cluster=_decode_cluster(document),
        options=look_up(Options, document, "options"),
        search=look_up(SearchRecord, document, "search"),
        predicted=look_up(Predicted, document, "predicted"),
        stages=tuple(_decode_stage(stage, program) for stage in stages),
        schedule=look_up(str, document, "schedule.name"),
        num_micro_batches=look_up(int, document, "schedule.num_micro_batches"),
    )
    for part, described in (
        ("arguments", _encode_arguments(plan)),
        ("results", _encode_results(plan)),
    ):
        _check_placements(document[part], described, part)
    return plan


def bytes_per_device(value: Value, sharding: Sharding, mesh: Mesh) -> int:
    """Size of the largest shard of a value [B]."""
    if value.num_elements == 0:
        return 0
    shard = sharding.shard_elements(value.shape, mesh)
    return math.ceil(value.bytes_ * shard / value.num_elements)


def _parse(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise PlanError(
            f"the plan is not readable as JSON: {error.msg}",
            where=f"line {error.lineno}, column {error.colno}",
            hint="the file is cut short or is not a plan; plan again",
        ) from None
    except (ValueError, RecursionError) as error:
        raise PlanError(f"the plan is not readable as JSON: {error}") from None
    if not isinstance(document, dict) or "format_version" not in document:
        raise PlanError(
            "this JSON is not a plan: it has no 'format_version'",
            hint="a plan is what `tepdist plan -o FILE` writes",
        )
    version = document["format_version"]
    if version != FORMAT_VERSION:
        raise PlanError(
            f"the plan has format version {version!r}; this tepdist reads "
            f"{FORMAT_VERSION}",
            hint="plan again with this version",
        )
    return document


def _decode_program(document: dict[str, Any]) -> Program:
    written_by = look_up(str, document, "program.jaxlib_version")
    try:
        packed = base64.b64decode(
            look_up(str, document, "program.module"), validate=True
        )
        module = zlib.decompress(packed)
        program = extract(module, look_up(str, document, "program.name"))
    except (ValueError, zlib.error) as error:
        raise PlanError(f"the plan's program is damaged: {error}") from None
    except ProgramError as error:
        raise PlanError(
            f"the plan's program is not readable: {error.problem}",
            hint=f"it was written by jaxlib {written_by}; plan again with this one",
        ) from None
    return replace(program, module=module, jaxlib_version=written_by)


def _decode_cluster(document: dict[str, Any]) -> Cluster:
    try:
        return cluster_from_dict(look_up(dict, document, "cluster"), where="cluster")
    except ClusterError as error:
        raise PlanError(error.problem, where=error.where, hint=error.hint) from None


def _encode_arguments(plan: Plan) -> list[dict[str, Json]]:
    program = plan.program
    return [
        {
            **_record(role),
            **_tensor(program.values[value]),
            "placements": [
                _placement(stage, program.values[value], stage.values[value])
                for stage in plan.stages
            ],
        }
        for role, value in zip(plan.roles.arguments, program.arguments, strict=True)
    ]


def _encode_results(plan: Plan) -> list[dict[str, Json]]:
    program = plan.program
    return [
        {
            **_record(role),
            **_tensor(program.values[value]),
            "placements": [
                _placement(stage, program.values[value], stage.results[index])
                for stage in plan.stages
            ],
        }
        for index, (role, value) in enumerate(
            zip(plan.roles.results, program.results, strict=True)
        )
    ]


def _record(role: ArgumentRole | ResultRole) -> dict[str, Json]:
    record = encode(role)
    assert isinstance(record, dict)
    return record


def _tensor(value: Value) -> dict[str, Json]:
    return {"shape": list(value.shape), "dtype": value.dtype}


def _placement(stage: Stage, value: Value, sharding: Sharding) -> Json:
    placement = encode(_Placement(stage.index, sharding))
    assert isinstance(placement, dict)
    return {
        **placement,
        "bytes_per_device": bytes_per_device(value, sharding, stage.mesh),
    }


def _check_placements(
    entries: Any, described: Sequence[dict[str, Json]], part: str
) -> None:
    """Refuses placements that say otherwise than the stages' shardings, which rule."""
    for index, (entry, ours) in enumerate(zip(entries, described, strict=True)):
        path = f"{part}[{index}].placements"
        stated, meant = (
            decode(tuple[_Placement, ...], written.get("placements"), path)
            for written in (entry, ours)
        )
        if stated != meant:
            raise PlanError(
                f"plan key {path!r} says otherwise than the stages' 'shardings'"
            )


def _encode_stage(stage: Stage) -> Json:
    numbers: dict[Sharding, int] = {}
    # Most are the same few objects, and to hash one takes long.
    known: dict[int, int] = {}

    def number(sharding: Sharding) -> int:
        at = known.get(id(sharding))
        if at is None:
            at = known[id(sharding)] = numbers.setdefault(sharding, len(numbers))
        return at

    values: list[Json] = [number(sharding) for sharding in stage.values]
    operands: list[Json] = [
        [number(sharding) for sharding in wanted] for wanted in stage.operands
    ]
    results: list[Json] = [number(sharding) for sharding in stage.results]
    return {
        "index": stage.index,
        "devices": list(stage.devices),
        "mesh": encode(stage.mesh),
        "memory_per_device_bytes": encode(stage.memory),
        "collectives": encode(stage.collectives),
        "recompute": "none",
        "layers": None,
        "compute_s": stage.compute_s,
        "replicated_ops": list(stage.replicated_ops),
        "shardings": {
            "table": [encode(sharding) for sharding in numbers],
            "values": values,
            "operands": operands,
            "results": results,
        },
    }


def _decode_stage(document: Any, program: Program) -> Stage:
    mesh = look_up(Mesh, document, "mesh")
    table = look_up(tuple[Sharding, ...], document, "shardings.table")
    collectives = look_up(tuple[Collective, ...], document, "collectives")
    used = {axis for sharding in table for axis in sharding.axes}
    used.update(axis for each in collectives for axis in each.mesh_axes)
    if unknown := used - set(mesh.names):
        raise PlanError(
            f"a sharding or collective uses axes {sorted(unknown)}; the mesh is {mesh}"
        )
    values = _pick(table, look_up(list, document, "shardings.values"))
    operands = tuple(
        _pick(table, wanted) for wanted in look_up(list, document, "shardings.operands")
    )
    results = _pick(table, look_up(list, document, "shardings.results"))
    _expect_ranks(values, range(len(program.values)), program)
    _expect_ranks(results, program.results, program)
    _expect_count(operands, program.ops, "shardings.operands")
    for wanted, op in zip(operands, program.ops, strict=True):
        _expect_ranks(wanted, op.operands, program)
    return Stage(
        index=look_up(int, document, "index"),
        devices=look_up(tuple[int, ...], document, "devices"),
        mesh=mesh,
        values=values,
        operands=operands,
        results=results,
        memory=look_up(StageMemory, document, "memory_per_device_bytes"),
        collectives=collectives,
        compute_s=look_up(float, document, "compute_s"),
        replicated_ops=look_up(tuple[str, ...], document, "replicated_ops"),
    )


def _pick(table: Sequence[Sharding], numbers: Any) -> tuple[Sharding, ...]:
    try:
        if min(numbers, default=0) < 0:
            raise IndexError
        return tuple([table[number] for number in numbers])
    except (IndexError, TypeError):
        raise PlanError(
            f"plan key 'shardings': not indices into its table of {len(table)}"
        ) from None


def _expect_ranks(
    shardings: Sequence[Sharding], values: Sequence[int], program: Program
) -> None:
    _expect_count(shardings, values, "shardings")
    for sharding, value in zip(shardings, values, strict=True):
        tensor = program.values[value]
        if len(sharding.dims) != len(tensor.shape):
            raise PlanError(
                f"sharding {sharding} of {tensor.name}, whose shape is {tensor.shape}"
            )


def _expect_count(found: Sequence[object], wanted: Sequence[object], key: str) -> None:
    if len(found) != len(wanted):
        raise PlanError(
            f"plan key {key!r} has {len(found)} entries; the program has {len(wanted)}"
        )
