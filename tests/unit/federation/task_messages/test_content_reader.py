"""A file of content is read from a stream, one array at a time; what does not fit together is refused."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation import weights
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.task_messages import content_reader
from fedgrass.federation.task_messages.content_reader import Read, read_content, read_data
from fedgrass.federation.task_messages.message_content import (
    ArrayEntry,
    Record,
    content_arrays,
    data_arrays,
    encode_records,
)
from fedgrass.federation.weights import Encoded, unencoded
from tests.fakes.message_tasks import array_record, file_of, separate


def written(arrays: dict[str, Encoded]) -> bytes:
    target = BytesIO()
    weights.write(arrays, target)
    return target.getvalue()


def of_bytes(data: bytes) -> Encoded:
    return next(iter(data_arrays([len(data)], [data]).values()))


def entry(name: str, data: bytes) -> ArrayEntry:
    return ArrayEntry(name=name, dtype="uint8", shape=(len(data),), stype="raw", bytes=len(data))


names = st.text(min_size=1, max_size=20)
values = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63), st.floats(allow_nan=False), st.text(), st.binary()
)
blobs = st.lists(st.binary(max_size=40), max_size=5)


contents_of_messages = st.lists(
    st.tuples(names, st.dictionaries(names, values, max_size=4), blobs),
    max_size=4,
    unique_by=lambda content: content[0],
)


@given(contents_of_messages)
def test_what_was_written_is_read(contents: list[tuple[str, dict[str, object], list[bytes]]]) -> None:
    records = [
        Record(
            name=name,
            kind="arrays" if data else "config",
            values={} if data else of,
            arrays=tuple(entry(str(number), item) for number, item in enumerate(data)),
        )
        for name, of, data in contents
    ]
    data = [item for _, _, of in contents for item in of]
    file = written(content_arrays(records, data))
    assert read_content(BytesIO(file).read, len(file)) == (tuple(records), data)


@given(st.binary(max_size=200), st.sampled_from([read_content, read_data]))
def test_bytes_that_are_no_such_file_are_refused(data: bytes, read: Callable[[Read, int], object]) -> None:
    with pytest.raises(UpdateRefused):
        read(BytesIO(data).read, len(data))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_file_is_refused_or_read_whole(place: int, change: int) -> None:
    """No damage makes the reader ask for more than the file has, or fail in another way."""
    record, data = array_record(w=[1.0, 2.0], b=[3.0])
    file = bytearray(file_of([record], data))
    file[place % len(file)] ^= change
    stream = BytesIO(file)

    def read(count: int) -> bytes:
        found = stream.read(count)
        assert len(found) == count
        return found

    try:
        read_content(read, len(file))
    except UpdateRefused:
        return
    assert stream.read() == b""


def test_each_array_is_read_by_itself() -> None:
    record, data = array_record(w=[1.0] * 100, b=[3.0] * 50)
    file = file_of([record], data)
    stream, asked = BytesIO(file), list[int]()

    def read(count: int) -> bytes:
        asked.append(count)
        return stream.read(count)

    read_content(read, len(file))
    assert asked[-2:] == [400, 200]
    assert sum(asked) == len(file)


def test_arrays_of_a_separate_file_are_read_in_their_order() -> None:
    layers: dict[str, Any] = {f"layer-{number}": [float(number)] for number in range(12)}
    record, data = array_record(**layers)
    _, file = separate(record, data)
    assert read_data(BytesIO(file).read, len(file)) == data


RECORD = Record(name="arrays", kind="arrays", arrays=(entry("w", b"1234"),))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"0": of_bytes(b"1234")}, "begins with the array 'records'"),
        ({}, "begins with the array 'records'"),
        ({"records": of_bytes(b"\xc1")}, "cannot be decoded"),
        ({"records": of_bytes(encode_records([RECORD]))}, "name 1 arrays, and the file has the data of 0"),
        (
            {"records": of_bytes(encode_records([RECORD])), "0": of_bytes(b"12345")},
            "array 'w' has 5 bytes of data, and its record states 4",
        ),
        (
            {"records": of_bytes(encode_records([RECORD])), "1": of_bytes(b"1234")},
            "has the array '1' where '0' was expected",
        ),
        (
            {
                "records": of_bytes(encode_records([RECORD])),
                "0": unencoded(weights.DTYPES["F32"].type(1).reshape(1), "F32"),
            },
            "has the type F32; contents have bytes only",
        ),
    ],
)
def test_a_file_whose_parts_do_not_fit_is_refused(arrays: dict[str, Encoded], reason: str) -> None:
    file = written(arrays)
    with pytest.raises(UpdateRefused, match=reason):
        read_content(BytesIO(file).read, len(file))


def test_records_that_are_too_large_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    file = file_of([Record(name="config", kind="config", values={"text": "x" * 1000})])
    monkeypatch.setattr(content_reader, "LARGEST_RECORDS", 100)
    with pytest.raises(UpdateRefused, match="at most 100 are allowed"):
        read_content(BytesIO(file).read, len(file))
