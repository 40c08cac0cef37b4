"""Why a collective is there, in a line."""

from collections.abc import Iterator

from tepdist.plans.explain import update_values
from tepdist.plans.types import Collective, Plan
from tepdist.program.graph import Op
from tepdist.program.roles import Role
from tepdist.sharding import Sharding

_REDUCING = frozenset({"all_reduce", "reduce_scatter"})
_MOST_STEPS_BACK = 8


class Reasons:
    """The reasons of one plan's collectives."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        program = plan.program
        self._index = {value.name: value.index for value in program.values}
        self._gradients: dict[int, str] = {}
        arguments = [
            (role.name, index)
            for role, index in zip(plan.roles.arguments, program.arguments, strict=True)
            if role.role is Role.STATE and program.values[index].shape
        ]
        # A parameter's name is shorter than those of what an optimizer keeps for it.
        for name, index in sorted(arguments, key=lambda argument: len(argument[0])):
            for value in update_values(plan, name, index):
                self._gradients.setdefault(value, name)
        self._names = {index: name for name, index in arguments} | {
            index: role.name
            for role, index in zip(plan.roles.arguments, program.arguments, strict=True)
        }

    def of(self, collective: Collective) -> str:
        """What makes it necessary."""
        op = self._plan.program.ops[collective.op] if collective.op >= 0 else None
        value = self._index[collective.value]
        if op is not None and collective.kind in _REDUCING and value in op.results:
            return self._reduced(collective, op, value)
        return self._resharded(collective, op, value)

    def _reduced(self, collective: Collective, op: Op, value: int) -> str:
        axes = "*".join(collective.mesh_axes)
        what = f"sums over what {axes} cuts of {self._operands(op, collective)}"
        parameter = self._gradients.get(value)
        if parameter is None or collective.phase == "forward":
            return what
        return f"gradient of {parameter}: {what}"

    def _operands(self, op: Op, collective: Collective) -> str:
        """The operands of an op that the collective's axes cut, by name."""
        stage = self._plan.stages[0]
        cut = [
            self._origin(operand)
            for operand, sharding in zip(
                op.operands, stage.operands[op.index], strict=False
            )
            if set(collective.mesh_axes) & set(sharding.axes)
        ]
        return " and ".join(dict.fromkeys(cut)) or "its operands"

    def _resharded(self, collective: Collective, op: Op | None, value: int) -> str:
        stage = self._plan.stages[0]
        here = stage.values[value]
        name = self._origin(value)
        if op is None or value not in op.operands:
            wanted = self._handed_out(value)
            for_what = "for the next step" if wanted is None else f"as {wanted}"
            return f"{name} lies {here}; it is handed out {for_what}"
        wanted = stage.operands[op.index][op.operands.index(value)]
        others = [self._origin(operand) for operand in op.operands if operand != value]
        reader = op.kind.rpartition(".")[2]
        beside = f" with {others[0]}" if others else ""
        return f"{name} lies {here}; {reader}{beside} reads it as {wanted}"

    def _handed_out(self, value: int) -> Sharding | None:
        program, stage = self._plan.program, self._plan.stages[0]
        for result, sharding in zip(program.results, stage.results, strict=True):
            if result == value:
                return sharding
        return None

    def _origin(self, value: int) -> str:
        """The argument that a value is but for its form, else its own name."""
        program = self._plan.program
        for at in self._back(value):
            if at in self._names:
                return self._names[at]
        return program.values[value].name

    def _back(self, value: int) -> Iterator[int]:
        """A value and what it was made of, as long as that is one tensor."""
        program = self._plan.program
        for _ in range(_MOST_STEPS_BACK):
            yield value
            producer = program.values[value].producer
            if producer is None:
                return
            operands = program.ops[producer].operands
            size = program.values[value].num_elements
            same = [v for v in operands if program.values[v].num_elements == size]
            if len(operands) != 1 or len(same) != 1:
                return
            (value,) = same
