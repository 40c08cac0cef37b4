"""Roles, options and specs as messages of the protocol, and back."""

from collections.abc import Sequence

from tepdist.errors import OptionsError, RolesError
from tepdist.plans.types import Options
from tepdist.program.roles import ArgumentRole, ResultRole, Role, Roles
from tepdist.service.protocol import tepdist_pb2 as pb
from tepdist.sharding import Mesh

_ROLES = {
    Role.STATE: pb.ROLE_STATE,
    Role.BATCH: pb.ROLE_BATCH,
    Role.CONSTANT: pb.ROLE_CONSTANT,
}
_ROLES_BACK = {number: role for role, number in _ROLES.items()}

# Fields of `PlanOptions` that are those of `Options` as they stand.
_PLAIN = (
    "level",
    "time_limit_s",
    "num_stages",
    "num_micro_batches",
    "schedule",
    "recompute",
    "virtual_stages",
    "zero",
    "memory_limit_bytes",
    "exact",
)


def roles_to_proto(roles: Roles) -> pb.Roles:
    return pb.Roles(
        arguments=[argument_to_proto(role) for role in roles.arguments],
        results=[result_to_proto(role) for role in roles.results],
    )


def roles_from_proto(message: pb.Roles) -> Roles:
    """Reads roles.

    Raises:
        RolesError: if an argument's role is none of the known.
    """
    return Roles(
        tuple(argument_from_proto(argument) for argument in message.arguments),
        tuple(result_from_proto(result) for result in message.results),
    )


def argument_to_proto(role: ArgumentRole) -> pb.ArgumentRole:
    return pb.ArgumentRole(
        name=role.name,
        role=_ROLES[role.role],
        batch_dim=role.batch_dim,
        donated=role.donated,
    )


def argument_from_proto(message: pb.ArgumentRole) -> ArgumentRole:
    """Reads one argument's role.

    Raises:
        RolesError: if it is none of the known.
    """
    if message.role not in _ROLES_BACK:
        raise RolesError(
            f"argument {message.name!r} has role number {message.role}",
            where=message.name,
            hint="state is 1, batch 2, constant 3",
        )
    return ArgumentRole(
        name=message.name,
        role=_ROLES_BACK[message.role],
        batch_dim=message.batch_dim if message.HasField("batch_dim") else None,
        donated=message.donated,
    )


def result_to_proto(role: ResultRole) -> pb.ResultRole:
    return pb.ResultRole(name=role.name, replaces=role.replaces, is_loss=role.is_loss)


def result_from_proto(message: pb.ResultRole) -> ResultRole:
    return ResultRole(
        name=message.name,
        replaces=message.replaces if message.HasField("replaces") else None,
        is_loss=message.is_loss,
    )


def options_to_proto(options: Options) -> pb.PlanOptions:
    """Options as a message.

    Raises:
        OptionsError: if one is of a type or sign that the message has no room for.
    """
    try:
        message = pb.PlanOptions(**{name: getattr(options, name) for name in _PLAIN})
    except (TypeError, ValueError) as error:
        raise OptionsError(f"an option cannot be sent: {error}") from None
    for pattern, dims in options.constraints.items():
        message.constraints.add(
            pattern=pattern, dims=[pb.DimSharding(axes=axes) for axes in dims]
        )
    if options.mesh is not None:
        message.mesh = str(options.mesh)
    return message


def options_from_proto(message: pb.PlanOptions) -> Options:
    """Reads options; what is absent is left to the search.

    Raises:
        OptionsError: if the mesh is not readable.
    """
    plain = {name: getattr(message, name) for name in _PLAIN if message.HasField(name)}
    return Options(
        mesh=Mesh.parse(message.mesh) if message.HasField("mesh") else None,
        constraints={
            constraint.pattern: _dims(constraint.dims)
            for constraint in message.constraints
        },
        **plain,
    )


def _dims(dims: Sequence[pb.DimSharding]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(dim.axes) for dim in dims)
