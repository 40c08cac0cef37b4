"""MLIR element types as JAX dtypes."""

from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from tepdist.errors import ProgramError
from tepdist.program.graph import Program, Value

DTYPES: Mapping[str, np.dtype] = MappingProxyType(
    {
        "i1": np.dtype(np.bool_),
        "i2": jnp.dtype(jnp.int2),
        "i4": jnp.dtype(jnp.int4),
        "i8": np.dtype(np.int8),
        "i16": np.dtype(np.int16),
        "i32": np.dtype(np.int32),
        "i64": np.dtype(np.int64),
        "ui2": jnp.dtype(jnp.uint2),
        "ui4": jnp.dtype(jnp.uint4),
        "ui8": np.dtype(np.uint8),
        "ui16": np.dtype(np.uint16),
        "ui32": np.dtype(np.uint32),
        "ui64": np.dtype(np.uint64),
        "f16": np.dtype(np.float16),
        "bf16": jnp.dtype(jnp.bfloat16),
        "f32": np.dtype(np.float32),
        "f64": np.dtype(np.float64),
        "complex<f32>": np.dtype(np.complex64),
        "complex<f64>": np.dtype(np.complex128),
        "f4E2M1FN": jnp.dtype(jnp.float4_e2m1fn),
        "f8E3M4": jnp.dtype(jnp.float8_e3m4),
        "f8E4M3": jnp.dtype(jnp.float8_e4m3),
        "f8E4M3B11FNUZ": jnp.dtype(jnp.float8_e4m3b11fnuz),
        "f8E4M3FN": jnp.dtype(jnp.float8_e4m3fn),
        "f8E4M3FNUZ": jnp.dtype(jnp.float8_e4m3fnuz),
        "f8E5M2": jnp.dtype(jnp.float8_e5m2),
        "f8E5M2FNUZ": jnp.dtype(jnp.float8_e5m2fnuz),
        "f8E8M0FNU": jnp.dtype(jnp.float8_e8m0fnu),
    }
)

# JAX narrows these unless `jax_enable_x64` is set.
WIDE = frozenset({"i64", "ui64", "f64", "complex<f64>"})
# Below a byte each; on the wire and in numpy they take one.
BELOW_A_BYTE = frozenset({"i2", "i4", "ui2", "ui4", "f4E2M1FN"})


def struct_of(value: Value) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a value.

    Raises:
        ProgramError: if JAX has no such dtype.
    """
    if value.dtype not in DTYPES:
        raise ProgramError(
            f"element type {value.dtype} of {value.name} has no JAX counterpart",
            where=value.name,
            hint="convert it to a type that JAX has",
        )
    return jax.ShapeDtypeStruct(value.shape, DTYPES[value.dtype])


def result_structs(program: Program) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes and dtypes of a program's results."""
    return tuple(struct_of(program.values[value]) for value in program.results)


def is_wide(program: Program) -> bool:
    """Whether arguments or results are of types that JAX narrows unless told."""
    values = (*program.arguments, *program.results)
    return any(program.values[value].dtype in WIDE for value in values)
