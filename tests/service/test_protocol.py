"""The committed stubs are those of the committed .proto."""

from pathlib import Path

import pytest

from tepdist import errors
from tepdist.plans.types import Options
from tepdist.program.roles import ArgumentRole, ResultRole, Role, Roles
from tepdist.service import convert, protocol
from tepdist.service.faults import KINDS
from tepdist.service.protocol import tepdist_pb2 as pb
from tepdist.sharding import Mesh

FOLDER = Path(protocol.__file__).parent


def test_stubs_are_made_from_the_proto(tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc")
    arguments = [f"-I{FOLDER}", f"--python_out={tmp_path}", "tepdist.proto"]
    assert protoc.main(["protoc", *arguments]) == 0
    made, committed = (
        [line for line in file.read_text().splitlines() if "AddSerializedFile" in line]
        for file in (tmp_path / "tepdist_pb2.py", FOLDER / "tepdist_pb2.py")
    )
    assert len(committed) == 1
    assert made == committed, "run generate.sh"


def test_every_error_for_users_has_a_place_on_the_wire():
    classes = {
        cls.__name__: cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.TepdistError)
    }
    del classes["TepdistError"]
    assert {name: cls for name, (cls, _) in KINDS.items()} == classes
    text = (FOLDER / "tepdist.proto").read_text()
    assert all(name in text for name in classes)


def test_roles_survive_the_wire():
    roles = Roles(
        (
            ArgumentRole("params/w", Role.STATE, donated=True),
            ArgumentRole("x", Role.BATCH, batch_dim=0),
            ArgumentRole("key", Role.CONSTANT),
        ),
        (ResultRole("new", replaces="params/w"), ResultRole("loss", is_loss=True)),
    )
    assert convert.roles_from_proto(convert.roles_to_proto(roles)) == roles


def test_a_role_that_is_none_is_refused():
    message = pb.Roles(arguments=[pb.ArgumentRole(name="w")])
    with pytest.raises(errors.RolesError, match="'w' has role number 0"):
        convert.roles_from_proto(message)


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(level="O1", mesh=Mesh.parse("data=2,model=4"), exact=False, zero=0),
        Options(
            memory_limit_bytes=2**40,
            time_limit_s=1.5,
            constraints={"w*": ((), ("data", "model")), "b": ()},
        ),
    ],
)
def test_options_survive_the_wire(options):
    assert convert.options_from_proto(convert.options_to_proto(options)) == options


@pytest.mark.parametrize("options", [Options(zero=-1), Options(level=2)])
def test_an_option_without_room_on_the_wire_is_refused(options):
    with pytest.raises(errors.OptionsError, match="cannot be sent"):
        convert.options_to_proto(options)
