"""A plan's JSON form: both ways, stable keys, and what it refuses."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tepdist.errors import PlanError, TepdistError
from tepdist.plans import files
from tepdist.plans.json import from_json, to_json
from tepdist.plans.types import FORMAT_VERSION, Plan
from tepdist.sharding import Mesh

MakePlan = Callable[[random.Random, Mesh], Plan]
MESHES = [Mesh.parse(text) for text in ("8", "2x4", "data=3,model=5", "1")]
shared_fixtures = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=40,
)


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    return make_plan(random.Random(0), Mesh.parse("2x4"))


@given(seed=st.integers(0, 2**32), mesh=st.sampled_from(MESHES))
@shared_fixtures
def test_reading_what_was_written_gives_an_equal_plan(
    make_plan: MakePlan, seed: int, mesh: Mesh
) -> None:
    plan = make_plan(random.Random(seed), mesh)
    assert from_json(to_json(plan)) == plan


def test_keys_are_those_of_the_contract(plan: Plan) -> None:
    document = json.loads(to_json(plan))
    assert document["format_version"] == FORMAT_VERSION
    assert {"name", "num_ops", "fingerprint"} <= document["program"].keys()
    assert {
        "level",
        "seconds",
        "phases",
        "cost_s",
        "lower_bound_s",
        "num_candidates",
    } <= document["search"].keys()
    assert {
        "step_time_s",
        "compute_s",
        "communication_s",
        "exposed_communication_s",
        "bubble_fraction",
        "model_flops",
        "mfu",
        "memory_per_device_bytes",
    } <= document["predicted"].keys()
    assert document["schedule"] == {"name": "none", "num_micro_batches": 1}
    (stage,) = document["stages"]
    assert stage["mesh"] == {"axes": {"x": 2, "y": 4}}
    assert {"index", "devices", "recompute", "layers"} <= stage.keys()
    assert set(stage["memory_per_device_bytes"]) == {
        "state",
        "gradients",
        "activations",
        "temporaries",
        "peak",
        "allocated",
    }
    (collective,) = stage["collectives"]
    assert {
        "phase",
        "kind",
        "mesh_axes",
        "bytes",
        "count",
        "seconds",
    } <= collective.keys()
    argument = document["arguments"][0]
    assert argument["name"] == "params/h/0/w"
    assert argument["role"] == "state"
    assert (argument["shape"], argument["dtype"]) == ([8, 16], "f32")
    (placement,) = argument["placements"]
    assert placement.keys() == {"stage", "sharding", "bytes_per_device"}
    assert document["results"][2]["name"] == "loss"


def test_bytes_per_device_are_those_of_one_shard(plan: Plan) -> None:
    document = json.loads(to_json(plan))
    sizes = {"x": 2, "y": 4}
    for argument in document["arguments"]:
        (placement,) = argument["placements"]
        bytes_ = 4.0
        for extent, axes in zip(argument["shape"], placement["sharding"], strict=True):
            bytes_ *= extent
            for axis in axes:
                bytes_ /= sizes[axis]
        assert placement["bytes_per_device"] == bytes_


def test_unknown_keys_are_passed_over(plan: Plan) -> None:
    document = json.loads(to_json(plan))
    document["later"] = document["stages"][0]["later"] = document["options"]["x"] = 1
    assert from_json(json.dumps(document)) == plan


def test_a_new_option_takes_its_default(plan: Plan) -> None:
    document = json.loads(to_json(plan))
    del document["options"]["exact"]
    assert from_json(json.dumps(document)) == plan


def test_another_format_version_is_refused(plan: Plan) -> None:
    document = json.loads(to_json(plan))
    document["format_version"] = 99
    with pytest.raises(PlanError, match=r"format version 99; this tepdist reads 1"):
        from_json(json.dumps(document))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"a": 1}', "\x00\x01", "[" * 100_000, "NaN"]
)
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        from_json(text)


@given(share=st.floats(0, 0.999))
@shared_fixtures
def test_a_truncated_plan_is_refused(make_plan: MakePlan, share: float) -> None:
    text = to_json(make_plan(random.Random(1), MESHES[0])).rstrip()
    with pytest.raises(PlanError):
        from_json(text[: int(len(text) * share)])


def paths(document: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    items: list[tuple[object, object]] = []
    if isinstance(document, dict):
        items = list(document.items())
    elif isinstance(document, list):
        items = list(enumerate(document))
    return [path, *(p for key, item in items for p in paths(item, (*path, key)))]


def stated_shardings(document: dict[str, Any]) -> list[object]:
    """Every sharding that a plan file states for arguments and results."""
    return [
        placement["sharding"]
        for entry in document["arguments"] + document["results"]
        for placement in entry["placements"]
    ]


@pytest.mark.parametrize("part", ["arguments", "results"])
@pytest.mark.parametrize("sharding", [[["no axis"], []], [["x"], ["y"]], [], None])
def test_a_placement_that_is_not_the_stages_is_refused(
    plan: Plan, part: str, sharding: object
) -> None:
    document = json.loads(to_json(plan))
    placement = document[part][0]["placements"][0]
    assert placement["sharding"] != sharding
    placement["sharding"] = sharding
    with pytest.raises(PlanError, match=rf"{part}\[0\]\.placements"):
        from_json(json.dumps(document))


def test_a_collective_over_an_unknown_axis_is_refused(plan: Plan) -> None:
    document = json.loads(to_json(plan))
    document["stages"][0]["collectives"][0]["mesh_axes"] = ["no axis"]
    with pytest.raises(PlanError, match="uses axes \\['no axis'\\]"):
        from_json(json.dumps(document))


@given(data=st.data())
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=300,
)
def test_any_wrong_value_is_a_plan_error_or_still_a_plan(
    make_plan: MakePlan, data: st.DataObject
) -> None:
    document = json.loads(to_json(make_plan(random.Random(2), Mesh.parse("2x4"))))
    *parents, last = data.draw(st.sampled_from(paths(document)[1:]))
    wrong = st.sampled_from([None, True, -1, 7, 10**30, 0.5, "z", [], [[]], {}, [-1]])
    holder = document
    for key in parents:
        holder = holder[key]
    holder[last] = data.draw(wrong)
    try:
        plan = from_json(json.dumps(document))
    except PlanError as error:
        assert len(error.problem) < 300
    else:
        assert stated_shardings(json.loads(to_json(plan))) == stated_shardings(document)


def test_an_error_names_the_key(plan: Plan) -> None:
    document = json.loads(to_json(plan))
    document["stages"][0]["collectives"][0]["bytes"] = "many"
    with pytest.raises(PlanError, match=r"collectives\[0\]\.bytes' is str 'many'"):
        from_json(json.dumps(document))


def test_saving_then_loading_gives_an_equal_plan(plan: Plan, tmp_path) -> None:
    files.save(plan, tmp_path / "plan.json")
    assert files.load(tmp_path / "plan.json") == plan


def test_file_errors_name_the_file(plan: Plan, tmp_path) -> None:
    with pytest.raises(TepdistError, match="cannot be read") as caught:
        files.load(tmp_path / "none.json")
    assert caught.value.where == str(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="not text"):
        files.load(tmp_path / "binary.json")
    (tmp_path / "short.json").write_text(to_json(plan)[:1000])
    with pytest.raises(PlanError, match="not readable as JSON") as caught:
        files.load(tmp_path / "short.json")
    assert str(caught.value.where).startswith(str(tmp_path / "short.json, line "))
    assert caught.value.hint
    with pytest.raises(PlanError, match="cannot be written"):
        files.save(plan, tmp_path / "no" / "plan.json")


def test_forty_thousand_ops_are_written_within_a_second(plan: Plan) -> None:
    (stage,) = plan.stages
    many = 40_000 // len(plan.program.ops) + 1
    big = replace(
        plan,
        stages=(
            replace(stage, values=stage.values * many, operands=stage.operands * many),
        ),
    )
    start = time.process_time()
    text = to_json(big)
    assert time.process_time() - start < 1
    assert len(text) < 5_000_000
