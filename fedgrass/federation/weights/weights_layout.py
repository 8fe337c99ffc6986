"""The layout of a weights file: its arrays and their places, read from the header before any data.

A file is ``header length (u64, little-endian) | header (JSON) | data``, the format of safetensors
(https://github.com/huggingface/safetensors#format). The header is parsed here, because an update is checked
against the model's layout before its data is read, and is read by ranges.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from fedgrass.federation.errors import UpdateRefused

LARGEST_HEADER = 8 * 1024 * 1024  # bytes, for some 80,000 arrays; a larger one is an attack or an accident
METADATA = "__metadata__"  # the only name in a header that is not an array's
PREFIX = 8  # bytes of the header's length
_MOST_DIMENSIONS = 32  # supported by every version of numpy
_MOST_VALUES = 2**48  # per array: far beyond any file, and within numpy's limits

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # its bits, since numpy has no such type
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("<i1"),
    "U8": np.dtype("<u1"),
    "BOOL": np.dtype("?"),
}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

# Marks arrays of a task as bfloat16, which plain uint16 bits would not.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])

Arrays = Mapping[str, NDArray[np.generic]]  # by name


class Array(Struct, frozen=True):
    """One array of a file: its type, its shape, and its byte range ``start`` to ``end`` in the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Layout(Struct, frozen=True):
    """The contents of a weights file, without values."""

    arrays: dict[str, Array]
    header_bytes: int  # of the header including its length: the data begins here
    data_bytes: int

    @property
    def file_bytes(self) -> int:
        """The size of the file in bytes."""
        return self.header_bytes + self.data_bytes


class _Entry(Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


# Created here, before any thread can: see messages/message_codec.py.
_HEADER_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRY_DECODER = msgspec.json.Decoder(_Entry)
_METADATA_DECODER = msgspec.json.Decoder(dict[str, str])


def header_size(prefix: bytes | memoryview, file_bytes: int, largest: int = LARGEST_HEADER) -> int:
    """Return the size of the header, including its length, of a file.

    Args:
        prefix: The first bytes of the file.
        file_bytes: The size of the file.
        largest: The largest allowed header, without the length.

    Raises:
        UpdateRefused: The file is too short, or the claimed size exceeds the file or ``largest``.
    """
    if len(prefix) < PREFIX:
        message = f"the file has {file_bytes} bytes; a safetensors file has at least {PREFIX}"
        raise UpdateRefused(message)
    claimed = int.from_bytes(prefix[:PREFIX], "little")
    if claimed > largest:
        message = f"the header claims {claimed} bytes; at most {largest} are allowed"
        raise UpdateRefused(message)
    if PREFIX + claimed > file_bytes:
        message = f"the header claims {claimed} bytes, the file has only {file_bytes}: it is truncated"
        raise UpdateRefused(message)
    return PREFIX + claimed


def read_layout(head: bytes | memoryview, file_bytes: int) -> Layout:
    """Return the layout of a file of ``file_bytes`` bytes, of which ``head`` holds at least the header.

    Raises:
        UpdateRefused: The header is not a safetensors header, or does not match the file's size.
    """
    return read_layout_and_metadata(head, file_bytes)[0]


def read_layout_and_metadata(head: bytes | memoryview, file_bytes: int) -> tuple[Layout, dict[str, str]]:
    """Return the layout, like :func:`read_layout`, and the header's metadata; raises the same errors."""
    layout, metadata = read_header(head, file_bytes)
    if layout.file_bytes != file_bytes:
        message = f"the header describes a file of {layout.file_bytes} bytes, but this one has {file_bytes}"
        raise UpdateRefused(message)
    return layout, metadata


def read_header(head: bytes | memoryview, file_bytes: int) -> tuple[Layout, dict[str, str]]:
    """Return the layout that the header describes, regardless of the file's size, and the header's metadata.

    Raises:
        UpdateRefused: The header is not a safetensors header, or ends beyond ``file_bytes``.
    """
    size = header_size(head, file_bytes)
    try:
        entries = _HEADER_DECODER.decode(bytes(head[PREFIX:size]))
        metadata = _METADATA_DECODER.decode(entries.pop(METADATA, msgspec.Raw(b"{}")))
        parsed = {name: _ENTRY_DECODER.decode(entry) for name, entry in entries.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"the header is not a safetensors header: {error}"
        raise UpdateRefused(message) from error
    arrays = {name: _checked_array(name, entry) for name, entry in parsed.items()}
    return Layout(arrays, size, _data_size(arrays)), metadata


def _checked_array(name: str, entry: _Entry) -> Array:
    if entry.dtype not in DTYPES:
        allowed = ", ".join(DTYPES)
        message = f"array {name!r} has the type {entry.dtype!r}; fedgrass averages {allowed}"
        raise UpdateRefused(message)
    # Limits the work below, too: the product of a million claimed dimensions would take hours.
    if len(entry.shape) > _MOST_DIMENSIONS or math.prod(max(1, n) for n in entry.shape) > _MOST_VALUES:
        message = f"array {name!r} claims {len(entry.shape)} dimensions, or more values than a file can hold"
        raise UpdateRefused(message)
    start, end = entry.data_offsets
    size = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
    if min(entry.shape, default=0) < 0 or start < 0 or end - start != size:
        message = f"array {name!r} of shape {tuple(entry.shape)} does not fit the bytes {start} to {end}"
        raise UpdateRefused(message)
    return Array(entry.dtype, tuple(entry.shape), start, end)


def _data_size(arrays: Mapping[str, Array]) -> int:
    """Return the size of the data. Raises UpdateRefused if the arrays leave gaps or overlap."""
    position = 0
    for name, array in sorted(arrays.items(), key=lambda item: (item[1].start, item[1].end)):
        if array.start != position:
            message = f"array {name!r} starts at byte {array.start} of the data, not at {position}"
            raise UpdateRefused(message)
        position = array.end
    return position


def in_file_order(layout: Layout) -> dict[str, Array]:
    """Return the arrays of a file, sorted by their place in it."""
    return dict(sorted(layout.arrays.items(), key=lambda item: (item[1].start, item[1].end)))


def check_layout(found: Layout, model: Layout) -> None:
    """Check that an update has the arrays of the model, with the same shapes and types.

    Raises:
        UpdateRefused: The message names the first array that differs, and counts the others.
    """
    names = sorted({*found.arrays, *model.arrays})
    differences = [text for name in names if (text := _differ(name, found, model))]
    if differences:
        more = f" (and {len(differences) - 1} more differences)" if len(differences) > 1 else ""
        raise UpdateRefused(differences[0] + more)


def _differ(name: str, found: Layout, model: Layout) -> str:
    got, expected = found.arrays.get(name), model.arrays.get(name)
    if got is None:
        return f"array {name!r} is missing"
    if expected is None:
        return f"array {name!r} is not in the model"
    if got.shape != expected.shape:
        return f"array {name!r} has the shape {got.shape}, the model has {expected.shape}"
    if got.dtype != expected.dtype:
        return f"array {name!r} has the type {got.dtype}, the model has {expected.dtype}"
    return ""
