"""Weights as safetensors files: their layout and their checks. Reading a file never executes code.

    weights_layout.py      what a file contains, read from its header
    weights_checksums.py   the checksums in its header
    weights_file.py        how a file is written
    slices.py              a model cut into slices, for averaging
    array_roles.py         which arrays gradients move, and those in updates in addition to the model's
    tree_ensemble.py       decision trees as arrays, and the checks of trees from untrusted senders
    array_sharing.py       which arrays travel, stay on the device, or are frozen

This module reads the values of a file, and refuses non-finite ones.
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights.weights_checksums import (
    CHUNK_BYTES,
    ChunkCheck,
    check_data,
    checksum,
    checksums_in,
    chunk_checksums,
    header_checksum,
)
from fedgrass.federation.weights.weights_file import (
    Encoded,
    Written,
    dtype_of,
    encode,
    header,
    header_length,
    layout_of,
    unencoded,
    write,
)
from fedgrass.federation.weights.weights_layout import (
    BFLOAT16,
    DTYPES,
    LARGEST_HEADER,
    PREFIX,
    Array,
    Arrays,
    Layout,
    check_layout,
    header_size,
    in_file_order,
    read_layout,
    read_layout_and_metadata,
)

__all__ = [
    "BFLOAT16",
    "CHUNK_BYTES",
    "DTYPES",
    "LARGEST_HEADER",
    "PREFIX",
    "Array",
    "Arrays",
    "ChunkCheck",
    "Encoded",
    "Layout",
    "Written",
    "check_data",
    "check_finite",
    "check_layout",
    "checksum",
    "checksums_in",
    "chunk_checksums",
    "decode",
    "dtype_of",
    "encode",
    "finite",
    "header",
    "header_checksum",
    "header_length",
    "header_size",
    "in_file_order",
    "layout_of",
    "not_finite",
    "read_layout",
    "read_layout_and_metadata",
    "sha256",
    "unencoded",
    "views",
    "write",
]


_EXPONENT_OF_BFLOAT16 = 0x7F80


def decode(data: bytes | memoryview) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a weights file by name, in its shapes and types, as read-only views into ``data``.

    Raises:
        UpdateRefused: The file is truncated or its header is invalid.
    """
    layout = read_layout(data, len(data))
    return views(data, layout)


def views(data: bytes | memoryview, layout: Layout) -> dict[str, NDArray[np.generic]]:
    """Return the arrays that ``layout`` describes in ``data`` by name, in its shapes, without copying them.

    BF16 arrays, for which numpy has no type, are returned as uint16 bits.
    """
    return {
        name: np.frombuffer(
            data,
            dtype=DTYPES[array.dtype],
            count=math.prod(array.shape),
            offset=layout.header_bytes + array.start,
        ).reshape(array.shape)
        for name, array in layout.arrays.items()
    }


def check_finite(arrays: Arrays) -> None:
    """Check that no value is infinite or NaN.

    Args:
        arrays: Arrays of any shape by name; uint16 and ``BFLOAT16`` arrays are taken as bits of BF16.

    Raises:
        UpdateRefused: A value is; the message names the array, the number of such values and the first index.
    """
    for name, array in arrays.items():
        good = finite(array)
        if not good.all():
            raise UpdateRefused(not_finite(name, good, array.shape, counted=True))


def not_finite(
    name: str, good: NDArray[np.bool_], shape: tuple[int, ...], start: int = 0, *, counted: bool = False
) -> str:
    """Return a text on the first value of an array that is not finite.

    Args:
        name: The array's name.
        good: Which values are finite: bool array, of all values or of a part of the flattened array.
        shape: The shape of the array.
        start: Index of the first value of ``good`` in the flattened array.
        counted: Whether to state how many values of ``good`` are not finite.
    """
    first = tuple(int(index) for index in np.unravel_index(start + int(np.argmin(good)), shape))
    count = f"{good.size - np.count_nonzero(good)} " if counted else ""
    return f"array {name!r} has {count}values that are not finite, the first at {first}"


def finite(array: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return which values are finite, bool array of the same shape; uint16 and ``BFLOAT16`` are BF16 bits."""
    if array.dtype == BFLOAT16:
        array = array.view(np.uint16)
    if array.dtype == DTYPES["BF16"]:
        bits = array.astype(np.uint16, copy=False)
        return np.asarray((bits & _EXPONENT_OF_BFLOAT16) != _EXPONENT_OF_BFLOAT16)
    return np.asarray(np.isfinite(array))


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of a model as 64 hexadecimal digits; devices verify downloads with it."""
    return hashlib.sha256(data).hexdigest()
