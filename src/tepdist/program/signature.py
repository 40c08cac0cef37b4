"""What makes two ops alike: kind, attributes, types and bodies, as a short hash."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxlib.mlir import ir

from tepdist.program.graph import CUSTOM_CALL
from tepdist.program.module import AnyValue

SIGNATURE_CHARS = 16
Key = tuple[object, ...]


@dataclass
class Signatures:
    """Signatures of the ops of one module; equal ones are hashed once.

    Attributes:
        ignored: Name of the attribute that does not count, save on a custom call,
            where it is the user's.
    """

    ignored: str
    known: dict[Key, str] = field(default_factory=dict)
    texts: dict[ir.Attribute | ir.Type, str] = field(default_factory=dict)

    def of(
        self,
        op: ir.Operation,
        operands: Sequence[AnyValue],
        results: Sequence[AnyValue],
    ) -> str:
        """Stable across processes and positions in the module.

        Args:
            op: Any.
            operands: Its operands; to list them takes longer than all else here.
            results: Its results.
        """
        key = self._key(op, operands, results, local={})
        known = self.known.get(key)
        if known is None:
            digest = hashlib.sha256(self._text(key).encode()).hexdigest()
            known = self.known[key] = digest[:SIGNATURE_CHARS]
        return known

    def _key(
        self,
        op: ir.Operation,
        operands: Sequence[AnyValue],
        results: Sequence[AnyValue],
        *,
        local: dict[AnyValue, int],
    ) -> Key:
        """Kind, attributes, types and bodies, by MLIR's own identities.

        Values in bodies are numbered as they come, those from outside too: names and
        positions do not count.
        """
        attributes = op.attributes
        kind = op.name
        parts: list[object] = [kind]
        for name in attributes:
            if name != self.ignored or kind == CUSTOM_CALL:
                parts += (name, _attribute(attributes, name))
        parts.append("operands")
        parts += [operand.type for operand in operands]
        parts.append("results")
        parts += [result.type for result in results]
        for region in op.regions:
            for block in region.blocks:
                parts.append(self._block_key(block, local))
        return tuple(parts)

    def _block_key(self, block: ir.Block, local: dict[AnyValue, int]) -> Key:
        parts: list[object] = []
        for argument in block.arguments:
            local[argument] = len(local)
            parts.append(argument.type)
        for op in block.operations:
            operands, results = list(op.operands), list(op.results)
            parts += [local.setdefault(v, len(local)) for v in operands]
            parts.append(self._key(op.operation, operands, results, local=local))
            for result in results:
                local[result] = len(local)
        return tuple(parts)

    def _text(self, part: object) -> str:
        if isinstance(part, tuple):
            return "(" + ",".join(map(self._text, part)) + ")"
        if isinstance(part, ir.Attribute | ir.Type):
            if part not in self.texts:
                self.texts[part] = str(part)
            return self.texts[part]
        return str(part)


def _attribute(attributes: ir.OpAttributeMap, name: str) -> ir.Attribute | str:
    """The attribute, or its text where the bindings have no class for it.

    Those of dense complex numbers are such.
    """
    try:
        return attributes[name]
    except TypeError:
        return str(attributes[list(attributes).index(name)])


def single_op(op: ir.Operation) -> str | None:
    """The op that a body of one op applies to its arguments; None if there is none."""
    regions = op.regions
    if len(regions) == 0:
        return None
    blocks = list(regions[-1].blocks)
    if len(blocks) != 1 or len(blocks[0].operations) != 2:
        return None
    body = blocks[0].operations[0].operation
    if set(body.operands) != set(blocks[0].arguments):
        return None
    return str(body.name)
