"""The content of a message to a task, or of its reply: named records, and the file that carries them.

A record holds arrays, metrics or configuration values, as in Flower's RecordDict. The arrays are kept as the
sender has serialised them, with their type, shape and form of serialisation, so that nothing is converted on
the way. A file of content is a weights file with arrays of bytes:

    records       the records in msgpack, without the arrays' data
    0, 1, 2, ...  the data of the arrays, in the order of the records

On the way to devices, the arrays of a record may be in a separate file, which many messages share: it is
named by its SHA-256 (``object_keys.content``), and has the arrays' data only.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages.message_fields import Count, Positive, Sha256
from fedgrass.federation.weights import Encoded

RECORDS = "records"  # the array of a file that holds the records
LARGEST_RECORDS = 8 * 1024**2  # bytes of the records without the arrays' data
MOST_ARRAYS = 20_000  # of a content
_LONGEST_NAME = 1024  # of a record, an array or a value
Name = Annotated[str, Meta(min_length=1, max_length=_LONGEST_NAME)]
Shape = Annotated[tuple[Count, ...], Meta(max_length=64)]
Scalar = bool | int | float | str | bytes
Value = Scalar | list[bool] | list[int] | list[float] | list[str] | list[bytes]


class ArrayEntry(Struct, frozen=True, kw_only=True):
    """One serialised array: its name in the record, and what its data are."""

    name: Name
    dtype: Annotated[str, Meta(max_length=64)]
    shape: Shape
    stype: Annotated[str, Meta(max_length=64)]  # the form of serialisation, such as "numpy.ndarray"
    bytes: Count


class ContentFile(Struct, frozen=True, kw_only=True):
    """A separate file with the data of a record's arrays."""

    sha256: Sha256
    bytes: Positive


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One named record of a content: arrays, or values."""

    name: Name
    kind: Literal["arrays", "metrics", "config"]
    values: dict[Name, Any] = {}  # of metrics and config: each a ``Value``
    arrays: tuple[ArrayEntry, ...] = ()
    file: ContentFile | None = None  # with the arrays' data; None: they are in the file of the content


# Created at import, not on first use: see fedgrass/federation/messages/message_codec.py.
_DECODER = msgspec.msgpack.Decoder(tuple[Record, ...])


def encode_records(records: Sequence[Record]) -> bytes:
    """Return records as msgpack; equal records, with values in the same order, give equal bytes.

    Raises:
        UpdateRefused: the receiver would refuse them: a value has a type that no record carries, a name is
            empty, too long or there twice, or the records are too large.
    """
    _check_records(records)
    try:
        data = msgspec.msgpack.encode(tuple(records))
        _DECODER.decode(data)
    except (OverflowError, TypeError, ValueError) as error:  # a ValidationError is a ValueError
        message = f"a record is invalid: {error}"
        raise UpdateRefused(message) from error
    if len(data) > LARGEST_RECORDS:
        message = (
            f"the records have {len(data):,} bytes without the data of arrays;"
            f" at most {LARGEST_RECORDS:,} are allowed: send large values as arrays"
        )
        raise UpdateRefused(message)
    return data


def decode_records(data: bytes | memoryview) -> tuple[Record, ...]:
    """Return the records that ``encode_records`` made.

    Raises:
        UpdateRefused: they cannot be decoded, or contain what records do not carry.
    """
    if len(data) > LARGEST_RECORDS:
        message = f"the records have {len(data):,} bytes; at most {LARGEST_RECORDS:,} are allowed"
        raise UpdateRefused(message)
    try:
        records = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"the records cannot be decoded: {error}"
        raise UpdateRefused(message) from error
    _check_records(records)
    return records


def _check_records(records: Sequence[Record]) -> None:
    """Check what the types of the fields do not express. Raises UpdateRefused."""
    if sum(len(record.arrays) for record in records) > MOST_ARRAYS:
        message = f"the records have more than {MOST_ARRAYS:,} arrays"
        raise UpdateRefused(message)
    if twice := _twice(record.name for record in records):
        message = f"the content has two records {twice!r}"
        raise UpdateRefused(message)
    for record in records:
        _check_values(record)
        has, lacks = ("values", record.values) if record.kind == "arrays" else ("arrays", record.arrays)
        if lacks or (record.file and record.kind != "arrays"):
            message = f"the record {record.name!r} of {record.kind} has {has if lacks else 'a file'}"
            raise UpdateRefused(message)
        if twice := _twice(entry.name for entry in record.arrays):
            message = f"the record {record.name!r} has two arrays {twice!r}"
            raise UpdateRefused(message)


def _twice(names: Iterable[str]) -> str | None:
    """Return a name that is there more than once, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _check_values(record: Record) -> None:
    """Raise UpdateRefused for a value that is neither a scalar nor a list of scalars of one type."""
    for name, value in record.values.items():
        members = value if isinstance(value, list | tuple) else [value]
        kinds = {type(member) for member in members}
        if not kinds <= {bool, int, float, str, bytes} or len(kinds) > 1:
            message = (
                f"the value {name!r} of the record {record.name!r} is a {type(value).__name__} that no record"
                " carries: it takes a number, a text, bytes, or a list of one of these"
            )
            raise UpdateRefused(message)


def carried(records: Iterable[Record]) -> list[ArrayEntry]:
    """Return the arrays whose data are in the file of the content, in its order."""
    return [entry for record in records if record.file is None for entry in record.arrays]


def content_arrays(records: Sequence[Record], data: Iterable[bytes | memoryview]) -> dict[str, Encoded]:
    """Return the arrays of a content's file, for ``weights.write``.

    Args:
        records: of the content.
        data: of the carried arrays, in their order; consumed as the file is written.

    Raises:
        UpdateRefused: the records cannot be encoded.
    """
    encoded = encode_records(records)
    sizes = [entry.bytes for entry in carried(records)]
    return {RECORDS: _of_bytes(len(encoded), iter([encoded]))} | data_arrays(sizes, data)


def data_arrays(sizes: Sequence[int], data: Iterable[bytes | memoryview]) -> dict[str, Encoded]:
    """Return arrays of bytes named ``0``, ``1``, ..., for ``weights.write``; ``data`` are consumed lazily."""
    source = iter(data)
    return {str(number): _of_bytes(size, source) for number, size in enumerate(sizes)}


def _of_bytes(size: int, source: "Iterable[bytes | memoryview]") -> Encoded:
    """Return an array whose only block is the next item of ``source`` when it is written."""

    def blocks() -> Iterable[np.ndarray[Any, Any]]:
        yield np.frombuffer(next(iter(source)), np.uint8)

    return Encoded("U8", (size,), blocks())
