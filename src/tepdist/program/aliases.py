"""What a module itself says about its arguments and results.

JAX states donation as attributes of ``main``, HLO as ``input_output_alias``; names are
in JAX's locations and ``jax.result_info``, or are HLO's parameter names. Normalising
drops all of it, so it is read before.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from tepdist.program.normalise import main_function, name_stack

ALIAS, DONOR, RESULT_NAME = "tf.aliasing_output", "jax.buffer_donor", "jax.result_info"
HLO_ALIASES = "mhlo.input_output_alias"
TREE_PATH = re.compile(r"\['([^']*)'\]|\[\"([^\"]*)\"\]|\[([^\]]*)\]|\.([A-Za-z_]\w*)")


@dataclass(frozen=True, slots=True)
class Aliases:
    """Donations and names, by position.

    Attributes:
        argument_names: Unique.
        result_names: Unique.
        replaced: Result to the argument whose buffer it takes.
        donors: Arguments given away with no result named for them.
    """

    argument_names: tuple[str, ...]
    result_names: tuple[str, ...]
    replaced: Mapping[int, int]
    donors: frozenset[int]

    @property
    def says_something(self) -> bool:
        return bool(self.replaced or self.donors)

    def to_json(self) -> str:
        """For `from_json`."""
        fields = {
            "argument_names": self.argument_names,
            "result_names": self.result_names,
            "replaced": list(self.replaced.items()),
            "donors": sorted(self.donors),
        }
        return json.dumps(fields)

    @staticmethod
    def from_json(text: str) -> "Aliases":
        """What `to_json` was asked of."""
        fields = json.loads(text)
        return Aliases(
            argument_names=tuple(fields["argument_names"]),
            result_names=tuple(fields["result_names"]),
            replaced=dict(fields["replaced"]),
            donors=frozenset(fields["donors"]),
        )


def read_aliases(module: ir.Module) -> Aliases:
    """Donations and names in a module that is not normalised yet."""
    main = main_function(module)
    block = main.body.blocks[0]
    returned = block.operations[len(block.operations) - 1]
    arguments = _dictionaries(main, "arg_attrs", len(block.arguments))
    results = _dictionaries(main, "res_attrs", len(returned.operands))
    replaced = dict(_hlo_aliases(module))
    for number, attributes in enumerate(arguments):
        if ALIAS in attributes:
            replaced[ir.IntegerAttr(attributes[ALIAS]).value] = number
    donors = [i for i, attributes in enumerate(arguments) if DONOR in attributes]
    return Aliases(
        argument_names=_unique(
            _tree_name(name_stack(argument.location)) or f"arg{i}"
            for i, argument in enumerate(block.arguments)
        ),
        result_names=_unique(
            _result_name(attributes) or f"result{i}"
            for i, attributes in enumerate(results)
        ),
        replaced={
            result: argument
            for result, argument in sorted(replaced.items())
            if result < len(results) and argument < len(arguments)
        },
        donors=frozenset(donors) - set(replaced.values()),
    )


def _dictionaries(
    main: func.FuncOp, name: str, count: int
) -> list[dict[str, ir.Attribute]]:
    if name not in main.attributes:
        return [{} for _ in range(count)]
    return [
        {entry.name: entry.attr for entry in _entries(ir.DictAttr(attributes))}
        for attributes in ir.ArrayAttr(main.attributes[name])
    ]


def _entries(attributes: ir.DictAttr) -> list[ir.NamedAttribute]:
    return [attributes[i] for i in range(len(attributes))]


def _hlo_aliases(module: ir.Module) -> Iterable[tuple[int, int]]:
    """(result, argument) of each alias that HLO states between whole buffers."""
    attributes = module.operation.attributes
    if HLO_ALIASES not in attributes:
        return
    for entry in ir.ArrayAttr(attributes[HLO_ALIASES]):
        fields = ir.DictAttr(entry)
        alias = ir.DictAttr(fields["alias"])
        output = list(ir.DenseI64ArrayAttr(fields["output_index"]))
        inside = list(ir.DenseI64ArrayAttr(alias["parameter_index"]))
        if not inside and len(output) <= 1:
            argument = ir.IntegerAttr(alias["parameter_number"]).value
            yield (output[0] if output else 0), argument


def _result_name(attributes: Mapping[str, ir.Attribute]) -> str:
    if RESULT_NAME not in attributes:
        return ""
    return _tree_name(ir.StringAttr(attributes[RESULT_NAME]).value)


def _tree_name(path: str) -> str:
    """JAX's path into a tree with slashes.

    >>> _tree_name("state[1][0].mu['h'][3]['w']")
    'state/1/0/mu/h/3/w'
    """
    return TREE_PATH.sub(lambda found: f"/{found[found.lastindex or 0]}", path)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    """The names, later duplicates with ``~2``, ``~3``..."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}~{seen[name]}")
    return tuple(unique)
