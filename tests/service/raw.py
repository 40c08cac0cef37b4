"""A session by its messages alone, and a small program to send."""

import jax
import jax.numpy as jnp
import numpy as np

from tepdist.service import messages
from tepdist.service.channel import Connection
from tepdist.service.protocol import tepdist_pb2 as pb


class Raw:
    """A session's calls with messages of one's own making."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        opened = connection.ask("OpenSession", pb.OpenSessionRequest())
        self.id: str = opened.session_id

    def submit(self, module: bytes, **header) -> pb.Submitted:
        message = pb.SubmitProgramHeader(session_id=self.id, name="p", **header)
        requests = messages.submission(message, module)
        for answer in self.connection.exchange("SubmitProgram", requests):
            if answer.WhichOneof("part") == "submitted":
                return answer.submitted
        raise AssertionError("no program came back")

    def put(self, *arrays) -> list[int]:
        requests = messages.upload(self.id, arrays)
        return list(self.connection.send("PutTensors", requests).handles)

    def step(self, program_id: int, *arguments) -> pb.StepResponse:
        header = pb.StepHeader(session_id=self.id, program_id=program_id)
        return self.connection.send("Step", messages.step(header, arguments))

    def fetch(self, *handles) -> list[np.ndarray]:
        request = pb.FetchRequest(session_id=self.id, handles=handles)
        return list(messages.download(self.connection.receive("Fetch", request)))


def exported() -> bytes:
    lowered = jax.jit(lambda w, x: (w + x.sum(0), x.sum())).lower(
        jnp.ones(4), jnp.ones((8, 4))
    )
    return lowered.as_text().encode()


def roles(*, donated: bool = True) -> pb.Roles:
    return pb.Roles(
        arguments=[
            pb.ArgumentRole(name="w", role=pb.ROLE_STATE, donated=donated),
            pb.ArgumentRole(name="x", role=pb.ROLE_BATCH, batch_dim=0),
        ],
        results=[
            pb.ResultRole(name="w", replaces="w"),
            pb.ResultRole(name="loss", is_loss=True),
        ],
    )
