"""Reads a file of content, or of separate arrays, from a stream, one array at a time and without copies."""

from collections.abc import Callable, Iterator, Sequence

from fedgrass.federation import weights
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.task_messages.message_content import (
    LARGEST_RECORDS,
    RECORDS,
    ArrayEntry,
    Record,
    carried,
    decode_records,
)

Read = Callable[[int], bytes]  # returns exactly the given number of next bytes of the file, or raises


def read_content(read: Read, size: int) -> tuple[tuple[Record, ...], list[bytes]]:
    """Return the records of a file of content, and the data of the arrays that are in it, in their order.

    Args:
        read: reads the file from its beginning.
        size: of the file, in bytes.

    Raises:
        UpdateRefused: the file is no file of content, or its arrays have other sizes than its records state.
    """
    sizes = _sizes(read, size)
    names = list(sizes)
    if names[:1] != [RECORDS]:
        message = (
            f"a file of content begins with the array {RECORDS!r}, this one with {names[:1] or 'nothing'}"
        )
        raise UpdateRefused(message)
    length = sizes.pop(RECORDS)
    if length > LARGEST_RECORDS:
        message = f"the records have {length:,} bytes; at most {LARGEST_RECORDS:,} are allowed"
        raise UpdateRefused(message)
    records = decode_records(read(length))
    check_sizes(carried(records), list(sizes.values()))
    return records, [read(length) for length in sizes.values()]


def read_data(read: Read, size: int) -> list[bytes]:
    """Return the arrays of a separate file of arrays, in their order; arguments and errors as above."""
    return [read(length) for length in _sizes(read, size).values()]


def check_sizes(entries: Sequence[ArrayEntry], sizes: Sequence[int]) -> None:
    """Check that data have the sizes that the records state.

    Raises:
        UpdateRefused: their number or a size differs; the message names the first array.
    """
    if len(entries) != len(sizes):
        message = f"the records name {len(entries):,} arrays, and the file has the data of {len(sizes):,}"
        raise UpdateRefused(message)
    for entry, size in zip(entries, sizes, strict=True):
        if entry.bytes != size:
            message = (
                f"array {entry.name!r} has {size:,} bytes of data, and its record states {entry.bytes:,}"
            )
            raise UpdateRefused(message)


def _sizes(read: Read, size: int) -> dict[str, int]:
    """Read the header, and return the size in bytes of each array by name, in the order of the file."""
    prefix = read(min(size, weights.PREFIX))
    rest = weights.header_size(prefix, size) - weights.PREFIX
    layout = weights.read_layout(prefix + read(rest), size)
    return dict(_checked(layout))


def _checked(layout: weights.Layout) -> Iterator[tuple[str, int]]:
    number = 0
    for name, array in weights.in_file_order(layout).items():
        if name != RECORDS or number:
            if name != str(number):
                message = f"the file has the array {name!r} where {str(number)!r} was expected"
                raise UpdateRefused(message)
            number += 1
        if array.dtype != "U8":
            message = f"array {name!r} of the file has the type {array.dtype}; contents have bytes only (U8)"
            raise UpdateRefused(message)
        yield name, array.end - array.start
