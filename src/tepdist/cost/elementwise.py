"""Floats and arrays of them alike: one time, or one for each of many strategies."""

from typing import TypeVar

import numpy as np

from tepdist.cluster.model import Times

FloatOrArray = TypeVar("FloatOrArray", float, np.ndarray)


def least(first: FloatOrArray, second: FloatOrArray) -> FloatOrArray:
    """The lesser of two, element by element."""
    if isinstance(first, float):
        return min(first, second)
    lesser: np.ndarray = np.minimum(first, second)
    return lesser


def greatest(first: FloatOrArray, second: FloatOrArray) -> FloatOrArray:
    """The greater of two, element by element."""
    return -least(-first, -second)


def curve_s(times: Times, bytes_: FloatOrArray) -> FloatOrArray:
    """Time that a measured curve gives for a size, element by element [s].

    Args:
        times: The curve; not empty.
        bytes_: Sizes [B].
    """
    sizes, seconds = zip(*times, strict=True)
    within = np.interp(bytes_, sizes, seconds)
    beyond = np.maximum(np.divide(bytes_, sizes[-1]), 1.0)
    found: np.ndarray = within * beyond
    return float(found) if isinstance(bytes_, float) else found
