"""The layout of a weights file: which arrays it has, and where they lie. Read before any data is touched.

A file is ``header length (u64, little-endian) | header (JSON) | data``; the format is safetensors' own
(https://github.com/huggingface/safetensors#format). The header is read here, because an update is checked
against the model's layout before its data is touched, and by ranges.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from fedgrass.federation.errors import UpdateRefused

LARGEST_HEADER = 8 * 1024 * 1024  # bytes: some 80,000 arrays; a larger claim is an attack or an accident
METADATA = "__metadata__"  # the one name of the header that is no array's
PREFIX = 8  # bytes that say how long the header is
_MOST_DIMENSIONS = 32  # of an array: what every numpy takes
_MOST_VALUES = 2**48  # of an array: far beyond any file, and within what numpy can count

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no type for it: its bits
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("<i1"),
    "U8": np.dtype("<u1"),
    "BOOL": np.dtype("?"),
}


# What an array of a task has whose values are bfloat16: bits that say what they are, as bare numbers do not.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])


class Array(Struct, frozen=True):
    """One array of a file: its type, its shape, and the bytes ``start`` to ``end`` of the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Layout(Struct, frozen=True):
    """What a weights file holds, without its values."""

    arrays: dict[str, Array]
    header_bytes: int  # of the length and the header together: the data begins here
    data_bytes: int

    @property
    def file_bytes(self) -> int:
        """The size of the file."""
        return self.header_bytes + self.data_bytes


class _Entry(Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


# Made before any thread can: see messages.py.
_HEADER_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRY_DECODER = msgspec.json.Decoder(_Entry)
_METADATA_DECODER = msgspec.json.Decoder(dict[str, str])


def header_size(prefix: bytes | memoryview, file_bytes: int, largest: int = LARGEST_HEADER) -> int:
    """Return how many bytes the length and the header of a file of ``file_bytes`` take.

    Args:
        prefix: the first bytes of the file.
        file_bytes: its size.
        largest: the most bytes that its header may have, without the length.

    Raises:
        UpdateRefused: the file is too short, or its header claims more than there is or than is allowed.
    """
    if len(prefix) < PREFIX:
        message = f"the file has {file_bytes} bytes; a safetensors file has at least {PREFIX}"
        raise UpdateRefused(message)
    claimed = int.from_bytes(prefix[:PREFIX], "little")
    if claimed > largest:
        message = f"the header claims {claimed} bytes; {largest} is the most that is taken"
        raise UpdateRefused(message)
    if PREFIX + claimed > file_bytes:
        message = f"the header claims {claimed} bytes, the file has only {file_bytes}: it is truncated"
        raise UpdateRefused(message)
    return PREFIX + claimed


def read_layout(head: bytes | memoryview, file_bytes: int) -> Layout:
    """Return the layout of a file of ``file_bytes`` bytes, of which ``head`` holds at least the header.

    Raises:
        UpdateRefused: the header is no safetensors header, or does not fit the file.
    """
    return read_layout_and_metadata(head, file_bytes)[0]


def read_layout_and_metadata(head: bytes | memoryview, file_bytes: int) -> tuple[Layout, dict[str, str]]:
    """Return what :func:`read_layout` does, and the header's metadata; raises as it does."""
    layout, metadata = read_header(head, file_bytes)
    if layout.file_bytes != file_bytes:
        message = f"the header describes a file of {layout.file_bytes} bytes, this one has {file_bytes}"
        raise UpdateRefused(message)
    return layout, metadata


def read_header(head: bytes | memoryview, file_bytes: int) -> tuple[Layout, dict[str, str]]:
    """Return the layout that the header describes, whatever the file's size, and the header's metadata.

    Raises:
        UpdateRefused: the header is no safetensors header, or ends beyond ``file_bytes``.
    """
    size = header_size(head, file_bytes)
    try:
        entries = _HEADER_DECODER.decode(bytes(head[PREFIX:size]))
        metadata = _METADATA_DECODER.decode(entries.pop(METADATA, msgspec.Raw(b"{}")))
        parsed = {name: _ENTRY_DECODER.decode(entry) for name, entry in entries.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"the header is no safetensors header: {error}"
        raise UpdateRefused(message) from error
    arrays = {name: _checked_array(name, entry) for name, entry in parsed.items()}
    return Layout(arrays, size, _data_size(arrays)), metadata


def _checked_array(name: str, entry: _Entry) -> Array:
    if entry.dtype not in DTYPES:
        allowed = ", ".join(DTYPES)
        message = f"array {name!r} has the type {entry.dtype!r}; fedgrass averages {allowed}"
        raise UpdateRefused(message)
    # Also bounds the work: the product of a million claimed dimensions would take hours.
    if len(entry.shape) > _MOST_DIMENSIONS or math.prod(max(1, n) for n in entry.shape) > _MOST_VALUES:
        message = f"array {name!r} claims {len(entry.shape)} dimensions, or more values than a file can have"
        raise UpdateRefused(message)
    start, end = entry.data_offsets
    size = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
    if min(entry.shape, default=0) < 0 or start < 0 or end - start != size:
        message = f"array {name!r} of shape {tuple(entry.shape)} cannot lie in the bytes {start} to {end}"
        raise UpdateRefused(message)
    return Array(entry.dtype, tuple(entry.shape), start, end)


def _data_size(arrays: Mapping[str, Array]) -> int:
    """Return where the data ends; the arrays have to lie side by side, with no gap and no overlap."""
    position = 0
    for name, array in sorted(arrays.items(), key=lambda item: (item[1].start, item[1].end)):
        if array.start != position:
            message = f"array {name!r} starts at byte {array.start} of the data, not at {position}"
            raise UpdateRefused(message)
        position = array.end
    return position


def in_file_order(layout: Layout) -> dict[str, Array]:
    """Return the arrays of a file in the order in which they lie in it."""
    return dict(sorted(layout.arrays.items(), key=lambda item: (item[1].start, item[1].end)))


def check_layout(found: Layout, model: Layout) -> None:
    """Check that an update has the arrays of the model, in their shapes and types.

    Raises:
        UpdateRefused: the text names the first array that differs, and how many more do.
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
