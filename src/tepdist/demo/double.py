"""A train step with every f32 of its program an f64, on one device.

A model may state its own types, so the program is rewritten, not the arguments cast.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax

from tepdist.cluster.presets import parse_cluster
from tepdist.compiler import compile_plan
from tepdist.frontends.jax import trace
from tepdist.lowering.dtypes import struct_of
from tepdist.plans.types import Options
from tepdist.program.module import new_context, parse
from tepdist.program.reader import name_arguments, read_program
from tepdist.runtime.local import Executable

Tree = Any

# How f32 constants are written that have no decimal form: infinities and NaN.
SPECIAL: Mapping[str, str] = MappingProxyType(
    {
        "0xFF800000": "0xFFF0000000000000",
        "0x7F800000": "0x7FF0000000000000",
        "0x7FC00000": "0x7FF8000000000000",
    }
)
_ELEMENT_TYPE = re.compile(r"\bf32\b|(?<=x)f32\b")
_SPECIAL = re.compile("|".join(SPECIAL))


def in_double(text: str) -> str:
    """A StableHLO text with every f32 an f64.

    >>> in_double("dense<0xFF800000> : tensor<4xf32>, tensor<f32>")
    'dense<0xFFF0000000000000> : tensor<4xf64>, tensor<f64>'
    """
    wide = _ELEMENT_TYPE.sub("f64", text)
    return _SPECIAL.sub(lambda match: SPECIAL[match[0]], wide)


def double_step(fn: Callable[..., Any], args: tuple[Tree, ...]) -> Callable[..., Any]:
    """`fn` in f64 on this process's first device; takes and returns the same trees.

    Args:
        fn: A pure JAX function in f32.
        args: Its abstract arguments.
    """
    traced = trace(fn, args, {})
    with new_context():
        text = in_double(str(parse(traced.module)))
    program, _ = read_program(text.encode(), name=f"{traced.name} in f64")
    names = tuple(role.name for role in traced.roles.arguments)
    program = name_arguments(program, names)
    cluster = parse_cluster("cpu:1")
    plan = compile_plan(program, traced.roles, cluster, options=Options(level="O1"))
    executable = Executable(plan, jax.devices()[:1])
    dtypes = [struct_of(program.values[index]).dtype for index in program.arguments]

    def step(*given: Tree) -> Any:
        leaves = traced.flatten(given, {})
        arguments = [
            leaf
            if isinstance(leaf, jax.Array) and leaf.dtype == dtype
            else executable.put(index, leaf)
            for index, (leaf, dtype) in enumerate(zip(leaves, dtypes, strict=True))
        ]
        return traced.unflatten(executable(arguments))

    return step
