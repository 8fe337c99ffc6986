"""Arrays in another precision than the model's: how a task gets them, and how its update gets them back.

The types of a model's file are the run's: every update has them, and so has every model that is made. A task
computes in the types of its own network. On the way in and on the way back values are converted: floats to
floats, whole numbers to whole numbers. Nothing else is: a count that comes as a float is a mistake.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.encodings.quantization import from_bfloat16, to_bfloat16
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import BFLOAT16, DTYPES, Array, Arrays, Layout, decode, finite, read_layout

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def from_bits(bits: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return bits of bfloat16, as uint16 or ``BFLOAT16``, as the float32 values that they are."""
    raw = np.asarray(bits, order="C").view(np.uint16)
    values = np.empty(raw.shape, np.float32)
    from_bfloat16(raw, values)
    return values


def for_a_task(arrays: Arrays, layout: Layout) -> dict[str, NDArray[np.generic]]:
    """Return a model's arrays as tasks get them: BF16, for which numpy has no type, as float32, exactly."""
    return {
        name: from_bits(array) if layout.arrays[name].dtype == "BF16" else array
        for name, array in arrays.items()
    }


def read_for_a_task(data: bytes | memoryview) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a model's file as tasks get them. Raises UpdateRefused if it is none."""
    return for_a_task(decode(data), read_layout(data, len(data)))


def in_types_of(layout: Layout, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
    """Return arrays in the types of a model; BF16 as bits in uint16.

    Args:
        layout: the model's.
        arrays: what a task has made; those that cannot be converted stay as they are.

    Raises:
        UpdateRefused: a value is too large for the model's type; the text names the array.
    """
    return {name: _in_type_of(name, layout.arrays, array) for name, array in arrays.items()}


def _in_type_of(name: str, model: Mapping[str, Array], array: NDArray[np.generic]) -> NDArray[np.generic]:
    wanted = model[name].dtype if name in model else ""
    if wanted in FLOATS and array.dtype == BFLOAT16:
        array = array.view(np.uint16) if wanted == "BF16" else from_bits(array)
    if not wanted or array.dtype == DTYPES[wanted]:
        return array
    if wanted in FLOATS and array.dtype.kind == "f":
        return _in_precision(name, wanted, array)
    if DTYPES[wanted].kind in "iu" and array.dtype.kind in "iu" and wanted != "BF16":
        converted = array.astype(DTYPES[wanted])
        if not np.array_equal(converted, array):
            message = f"array {name!r} has whole numbers that the model's {wanted} cannot hold"
            raise UpdateRefused(message)
        return converted
    return array


def _in_precision(name: str, wanted: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
    with np.errstate(over="ignore"):  # infinite then, and refused as that
        if wanted == "BF16":
            converted: NDArray[np.generic] = to_bfloat16(np.asarray(array, np.float32, order="C"))
        else:
            converted = array.astype(DTYPES[wanted])
    too_large = np.isfinite(array) & ~finite(converted)
    if too_large.any():
        largest = float(np.abs(array[too_large].astype(np.float64)).max())
        message = (
            f"array {name!r} has the magnitude {largest:.6g}, which the model's {wanted} cannot hold: start"
            " the run from a model in float32"
        )
        raise UpdateRefused(message)
    return converted
