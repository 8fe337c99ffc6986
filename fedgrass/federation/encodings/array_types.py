"""Arrays with another precision than the model's: conversion for a task, and back for its update.

The types in a model's file hold for the whole run: every update and every later model has them. A task
computes in the types of its network. On the way in and out, values are converted from floats to floats and
from integers to integers. Nothing else is converted: a count that arrives as a float is a mistake.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.encodings.quantization import from_bfloat16, to_bfloat16
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import BFLOAT16, DTYPES, Array, Arrays, Layout, decode, finite, read_layout
from fedgrass.federation.weights.weights_layout import FLOATS


def bfloat16_to_float32(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return the values of bfloat16 bits, exactly.

    Args:
        bits: uint16 or ``BFLOAT16`` array of any shape.

    Returns:
        float32 array of the same shape.
    """
    raw = np.asarray(bits, order="C").view(np.uint16)
    values = np.empty(raw.shape, np.float32)
    from_bfloat16(raw, values)
    return values


def to_task_types(arrays: Arrays, layout: Layout) -> dict[str, NDArray[np.generic]]:
    """Return a model's arrays in the types that tasks get: BF16, which numpy lacks, as float32.

    Args:
        arrays: The model's arrays by name, BF16 as uint16 bits.
        layout: The model's layout.

    Returns:
        Arrays by name in the same shapes; those that are not BF16 are not copied.
    """
    return {
        name: bfloat16_to_float32(array) if layout.arrays[name].dtype == "BF16" else array
        for name, array in arrays.items()
    }


def read_task_arrays(data: bytes | memoryview) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a model's file in the types and shapes that tasks get, by name.

    Raises:
        UpdateRefused: ``data`` is not a weights file.
    """
    return to_task_types(decode(data), read_layout(data, len(data)))


def read_arrays(data: bytes | memoryview) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a weights file by name, bfloat16 as ``BFLOAT16``, as read-only views.

    Raises:
        UpdateRefused: ``data`` is not a weights file.
    """
    layout = read_layout(data, len(data))
    return {
        name: array.view(BFLOAT16) if layout.arrays[name].dtype == "BF16" else array
        for name, array in decode(data).items()
    }


def to_model_types(layout: Layout, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
    """Return arrays converted to the types of a model, in their own shapes; BF16 as uint16 bits.

    Args:
        layout: The model's layout.
        arrays: A task's arrays by name; those that cannot be converted are returned unchanged.

    Raises:
        UpdateRefused: A value does not fit the model's type; the message names the array.
    """
    return {name: _in_type_of(name, layout.arrays, array) for name, array in arrays.items()}


def _in_type_of(name: str, model: Mapping[str, Array], array: NDArray[np.generic]) -> NDArray[np.generic]:
    target = model[name].dtype if name in model else ""
    if target in FLOATS and array.dtype == BFLOAT16:
        array = array.view(np.uint16) if target == "BF16" else bfloat16_to_float32(array)
    if not target or array.dtype == DTYPES[target]:
        return array
    if target in FLOATS and array.dtype.kind == "f":
        return _in_precision(name, target, array)
    if DTYPES[target].kind in "iu" and array.dtype.kind in "iu" and target != "BF16":
        converted = array.astype(DTYPES[target])
        if not np.array_equal(converted, array):
            message = f"array {name!r} has whole numbers that the model's {target} cannot hold"
            raise UpdateRefused(message)
        return converted
    return array


def _in_precision(name: str, target: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is refused below
        if target == "BF16":
            converted: NDArray[np.generic] = to_bfloat16(np.asarray(array, np.float32, order="C"))
        else:
            converted = array.astype(DTYPES[target])
    too_large = np.isfinite(array) & ~finite(converted)
    if too_large.any():
        largest = float(np.abs(array[too_large].astype(np.float64)).max())
        message = (
            f"array {name!r} has the magnitude {largest:.6g}, which the model's {target} cannot hold: start"
            " the run from a model in float32"
        )
        raise UpdateRefused(message)
    return converted
