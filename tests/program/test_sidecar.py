"""Roles as JSON: nothing is lost, and what does not fit is refused by name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tepdist.errors import RolesError
from tepdist.program.reader import read_program
from tepdist.program.roles import ArgumentRole, ResultRole, Role, Roles
from tepdist.program.sidecar import check_roles, roles_from_json, roles_to_json

NAMES = st.text(min_size=1, max_size=9)
ROLES = st.builds(
    Roles,
    st.lists(
        st.builds(
            ArgumentRole,
            NAMES,
            st.sampled_from(Role),
            st.none() | st.integers(0, 5),
            st.booleans(),
        )
    ).map(tuple),
    st.lists(st.builds(ResultRole, NAMES, st.none() | NAMES, st.booleans())).map(tuple),
)

TEXT = b"""
func.func @main(%w: tensor<4x2xf32>, %x: tensor<3x4xf32>, %n: tensor<i32>)
    -> (tensor<4x2xf32>, tensor<f32>) {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %new = stablehlo.add %w, %w : tensor<4x2xf32>
  %loss = stablehlo.reduce(%x init: %zero) applies stablehlo.add
    across dimensions = [0, 1] : (tensor<3x4xf32>, tensor<f32>) -> tensor<f32>
  return %new, %loss : tensor<4x2xf32>, tensor<f32>
}"""

GOOD = {
    "arguments": [
        {"name": "w", "role": "state", "donated": True},
        {"name": "x", "role": "batch", "batch_dim": 0},
        {"name": "n", "role": "constant"},
    ],
    "results": [
        {"name": "new_w", "replaces": "w"},
        {"name": "loss", "is_loss": True},
    ],
}


def changed(part: str, number: int, **fields: object) -> dict[str, object]:
    content = json.loads(json.dumps(GOOD))
    content[part][number].update(fields)
    return content


def check(content: object) -> Roles:
    roles = roles_from_json(json.dumps(content), where="w.roles.json")
    check_roles(read_program(TEXT, name="w.mlir")[0], roles)
    return roles


@given(ROLES)
def test_roles_survive_json(roles):
    assert roles_from_json(roles_to_json(roles), where="here") == roles


def test_good_roles_are_accepted():
    roles = check(GOOD)
    assert roles.arguments[0] == ArgumentRole("w", Role.STATE, donated=True)
    assert roles.results[1] == ResultRole("loss", is_loss=True)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "no list 'arguments'"),
        ({"arguments": []}, "no list 'results'"),
        ({**GOOD, "results": GOOD["results"][:1]}, "name 1 results, the program has 2"),
        ({**GOOD, "arguments": [*GOOD["arguments"], {"name": "y", "role": "batch"}]},
         "name 4 arguments, the program has 3"),
        (changed("arguments", 0, name=None), "name is None"),
        (changed("arguments", 0, role="weights"), "role 'weights' of argument 'w'"),
        (changed("arguments", 0, rule="state"), "unknown key 'rule'"),
        (changed("arguments", 0, donated="yes"), "donated is 'yes'"),
        (changed("arguments", 1, name="w"), "two arguments are called 'w'"),
        (changed("arguments", 1, name="add.1"), "that of an inner value"),
        (changed("arguments", 1, batch_dim=2), "batch_dim 2 of argument 'x'"),
        (changed("arguments", 1, batch_dim=-1), "batch_dim -1 of argument 'x'"),
        (changed("arguments", 2, batch_dim=0), "batch_dim 0 of argument 'n'"),
        (changed("results", 1, name="new_w"), "two results are called 'new_w'"),
        (changed("results", 0, replaces="x"), "'x', which is no state argument"),
        (changed("results", 0, replaces="v"), "'v', which is no state argument"),
        (changed("results", 1, replaces="w"), "both replace 'w'"),
        (changed("results", 1, replaces=3), "replaces is 3"),
    ],
)  # fmt: skip
def test_roles_that_do_not_fit_are_refused(content, problem):
    with pytest.raises(RolesError, match=problem) as caught:
        check(content)
    assert caught.value.hint


def test_a_result_of_another_shape_cannot_replace():
    content = changed("results", 1, replaces="w")
    content["results"][0]["replaces"] = None
    with pytest.raises(
        RolesError, match=r"f32\[\] and cannot replace 'w'.*f32\[4, 2\]"
    ):
        check(content)


def test_text_that_is_no_json_is_refused_with_its_file():
    with pytest.raises(RolesError, match="no JSON") as caught:
        roles_from_json("{", where="w.roles.json")
    assert caught.value.where == "w.roles.json"
