"""Writes weights files: arrays in the given order, in one pass over their values.

safetensors' own writer needs all arrays at once and makes a second copy of them; this one streams, so that
arrays can be encoded while they are written, and stores the checksums of the chunks in the header.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import prod
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights.weights_checksums import (
    CHECKSUMS,
    DIGITS,
    ChunkHasher,
    chunk_count,
    header_checksum,
)
from fedgrass.federation.weights.weights_layout import (
    BFLOAT16,
    DTYPES,
    LARGEST_HEADER,
    METADATA,
    PREFIX,
    Array,
    Layout,
    in_file_order,
)

_ALIGNMENT = 8  # bytes: the header is padded to it, as in safetensors
_NAMES = {**{dtype: name for name, dtype in DTYPES.items() if name != "BF16"}, BFLOAT16: "BF16"}


@dataclass(frozen=True)
class Encoded:
    """One array to be written: its type and shape in the file, and its values in C order, in blocks.

    The blocks together have the size given by type and shape; they are consumed once, as the file is written.
    """

    dtype: str
    shape: tuple[int, ...]
    blocks: Iterable[NDArray[np.generic]]

    @property
    def bytes(self) -> int:
        """The size of the array in the file, in bytes."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Written:
    """A written file: its size, its checksum, and its layout."""

    bytes: int
    checksum: str  # as in a completion
    layout: Layout


def dtype_of(name: str, array: NDArray[np.generic]) -> str:
    """Return the type in a file, such as "F32", of an array of any shape.

    Raises:
        UpdateRefused: Weights files do not support the array's dtype; the message names the array.
    """
    found = _NAMES.get(array.dtype.newbyteorder("<"))
    if found is None:
        message = f"array {name!r} has the type {array.dtype}; fedgrass averages {', '.join(DTYPES)}"
        raise UpdateRefused(message)
    return found


def unencoded(array: NDArray[np.generic], dtype: str) -> Encoded:
    """Return an array, of any shape, to be written unchanged with the type ``dtype``."""
    array = array.view(np.uint16) if array.dtype == BFLOAT16 else array
    return Encoded(dtype, array.shape, (np.asarray(array, dtype=DTYPES[dtype], order="C"),))


def layout_of(arrays: Mapping[str, Encoded], header_bytes: int = 0) -> Layout:
    """Return the layout (types, shapes, places) of a file with ``arrays`` in their order."""
    found, position = {}, 0
    for name, array in arrays.items():
        found[name] = Array(array.dtype, array.shape, position, position + array.bytes)
        position += array.bytes
    return Layout(found, header_bytes, position)


def header(layout: Layout) -> bytes:
    """Return the header, including its length, of a file with the arrays of ``layout``; without checksums."""
    return _header(layout, None)


def header_length(layout: Layout) -> int:
    """Return the size of the header, with checksums, of a file with the arrays of ``layout``."""
    return len(_header_text(layout, _blank(layout)))


def write(
    arrays: Mapping[str, Encoded], target: BinaryIO, metadata: Mapping[str, str] | None = None
) -> Written:
    """Write a weights file with ``arrays`` in their order, holding at most one block in memory.

    ``target`` is written from its current position and has to be seekable: the header is written last, since
    it contains the checksums of the data. An error leaves the file incomplete. ``metadata`` holds further
    entries of the header's metadata.

    Raises:
        UpdateRefused: The names of the arrays are not allowed in a header, or make it too large.
        ValueError: The blocks of an array do not have the size given by its type and shape.
    """
    layout = layout_of(arrays)
    size = len(_header(layout, _blank(layout), metadata))
    start = target.tell()
    target.write(bytes(size))
    head = _header(layout, _write_data(arrays, target), metadata)
    target.seek(start)
    target.write(head)
    target.seek(start + size + layout.data_bytes)
    layout = msgspec.structs.replace(layout, header_bytes=size)
    return Written(layout.file_bytes, header_checksum(head), layout)


def encode(
    arrays: Mapping[str, NDArray[np.generic]],
    layout: Layout | None = None,
    metadata: Mapping[str, str] | None = None,
    *,
    in_order: bool = False,
) -> bytes:
    """Return ``arrays`` as the bytes of a file; equal arrays give equal bytes.

    Arrays are sorted by type width, widest first as in safetensors, and by name, so that all are aligned.

    Args:
        arrays: Arrays of any shape by name; bfloat16 as ``BFLOAT16``.
        layout: If given, the types; uint16 arrays may be bits of BF16, as returned by ``views``.
        metadata: further entries of the header's metadata.
        in_order: whether to keep the order of ``arrays`` instead, for apps to which it matters.

    Raises:
        UpdateRefused: An array has a dtype that weights files do not support.
    """
    items = [*arrays.items()]
    if not in_order:
        items.sort(key=lambda item: (-item[1].dtype.itemsize, item[0]))
    types = {name: layout.arrays[name].dtype if layout else dtype_of(name, array) for name, array in items}
    target = BytesIO()
    write({name: unencoded(array, types[name]) for name, array in items}, target, metadata)
    return target.getvalue()


def _write_data(arrays: Mapping[str, Encoded], target: BinaryIO) -> list[str]:
    """Write the values and return the checksums of their chunks."""
    hasher, checksums = ChunkHasher(), list[str]()
    for name, array in arrays.items():
        written = 0
        for block in array.blocks:
            data = np.asarray(block, order="C").reshape(-1).view(np.uint8).data
            checksums += hasher.feed(data)
            written += target.write(data)
        if written != array.bytes:
            message = f"array {name!r} gave {written} bytes; its type and shape require {array.bytes}"
            raise ValueError(message)
    return [*checksums, hasher.end()] if hasher.pending else checksums


def _blank(layout: Layout) -> list[str]:
    """Return placeholders for the checksums of a file's data, before they are known."""
    return ["0" * DIGITS] * chunk_count(layout.data_bytes)


def _header(
    layout: Layout, checksums: Sequence[str] | None, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return a header including its length. Raises UpdateRefused if it is not allowed."""
    if METADATA in layout.arrays:
        message = f"an array cannot be called {METADATA!r}: the format reserves that name"
        raise UpdateRefused(message)
    text = _header_text(layout, checksums, metadata)
    if len(text) > LARGEST_HEADER:
        message = (
            f"the model's {len(layout.arrays)} arrays need a header of {len(text)} bytes;"
            f" at most {LARGEST_HEADER} are allowed"
        )
        raise UpdateRefused(message)
    return len(text).to_bytes(PREFIX, "little") + text


def _header_text(
    layout: Layout, checksums: Sequence[str] | None, metadata: Mapping[str, str] | None = None
) -> bytes:
    entries: dict[str, Any] = {}
    if checksums is not None:
        entries[METADATA] = {CHECKSUMS: ",".join(checksums), **(metadata or {})}
    for name, array in in_file_order(layout).items():
        entries[name] = {
            "dtype": array.dtype,
            "shape": array.shape,
            "data_offsets": (array.start, array.end),
        }
    text = msgspec.json.encode(entries)
    return text + b" " * (-len(text) % _ALIGNMENT)
