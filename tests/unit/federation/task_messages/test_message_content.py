"""Records of a message: what they carry comes back unchanged, and everything else is refused by name."""

import contextlib
import io
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from fedgrass.federation import weights
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.task_messages import message_content
from fedgrass.federation.task_messages.content_reader import read_content, read_data
from fedgrass.federation.task_messages.message_content import (
    MOST_ARRAYS,
    RECORDS,
    ArrayEntry,
    ContentFile,
    Record,
    carried,
    content_arrays,
    data_arrays,
    decode_records,
    encode_records,
)

NAMES = st.text(min_size=1, max_size=20)
SCALARS = [
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
]
VALUES = st.one_of(*SCALARS, *(st.lists(kind, max_size=5) for kind in SCALARS))
ENTRIES = st.builds(
    ArrayEntry,
    name=NAMES,
    dtype=st.sampled_from(["float32", "int64", "object"]),
    shape=st.lists(st.integers(0, 2**53), max_size=4).map(tuple),
    stype=st.sampled_from(["numpy.ndarray", "torch.Tensor"]),
    bytes=st.integers(0, 200),
)
FILES = st.builds(ContentFile, sha256=st.just("a" * 64), bytes=st.integers(1, 2**53))
OF_ARRAYS = st.builds(
    Record,
    name=NAMES,
    kind=st.just("arrays"),
    arrays=st.lists(ENTRIES, max_size=5, unique_by=lambda entry: entry.name).map(tuple),
    file=st.none() | FILES,
)
OF_VALUES = st.builds(
    Record,
    name=NAMES,
    kind=st.sampled_from(["metrics", "config"]),
    values=st.dictionaries(NAMES, VALUES, max_size=5),
)
CONTENT = st.lists(OF_ARRAYS | OF_VALUES, max_size=4, unique_by=lambda record: record.name).map(tuple)


def config(**values: object) -> Record:
    return Record(name="config", kind="config", values=values)


def arrays(*names: str, size: int = 4) -> Record:
    entries = [
        ArrayEntry(name=name, dtype="float32", shape=(1,), stype="numpy.ndarray", bytes=size)
        for name in names
    ]
    return Record(name="arrays", kind="arrays", arrays=tuple(entries))


# ---------------------------------------------------------------- records
@given(CONTENT)
def test_records_come_back_as_they_were(content: tuple[Record, ...]) -> None:
    data = encode_records(content)
    assert decode_records(data) == content
    assert decode_records(memoryview(data)) == content
    assert encode_records(decode_records(data)) == data


def test_the_types_of_values_are_kept() -> None:
    values = {"yes": True, "one": 1, "half": 1.0, "text": "1", "bytes": b"1", "none": [], "all": [1.0, 2.5]}
    (found,) = decode_records(encode_records([config(**values)]))
    assert {name: type(value) for name, value in found.values.items()} == {
        name: type(value) for name, value in values.items()
    }
    assert found.values == values


@given(st.binary(max_size=200))
def test_bytes_that_are_no_records_are_refused_and_raise_nothing_else(data: bytes) -> None:
    with contextlib.suppress(UpdateRefused):
        assert isinstance(decode_records(data), tuple)


@given(CONTENT, st.integers(0, 10**6), st.integers(0, 255))
def test_damaged_records_are_refused_or_still_records(
    content: tuple[Record, ...], place: int, byte: int
) -> None:
    data = bytearray(encode_records(content))
    data[place % len(data)] = byte
    try:
        found = decode_records(bytes(data))
    except UpdateRefused:
        return
    assert all(isinstance(record, Record) for record in found)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "NoneType"),
        ({"a": 1}, "dict"),
        ([[1.0]], "list"),
        ([1, 2.0], "list"),
        ([True, 1], "list"),
        (np.float64(1), "float64"),
        (np.zeros(3), "ndarray"),
        ((None,), "tuple"),
    ],
)
def test_a_value_that_no_record_carries_is_refused_by_name(value: object, shown: str) -> None:
    with pytest.raises(UpdateRefused, match=f"the value 'lr' of the record 'config' is a {shown}"):
        encode_records([config(lr=value)])


@pytest.mark.parametrize("value", [None, {"a": 1}, [[1]], [1, "1"]])
def test_such_a_value_is_refused_by_the_receiver_too(value: object) -> None:
    data = msgspec.msgpack.encode([{"name": "config", "kind": "config", "values": {"lr": value}}])
    with pytest.raises(UpdateRefused, match="the value 'lr' of the record 'config'"):
        decode_records(data)


@pytest.mark.parametrize(
    "record",
    [
        config(**{"": 1}),
        config(**{"x" * 1025: 1}),
        config(large=2**64),
        Record(name="", kind="config"),
        arrays(""),
        arrays("a", size=-1),
        msgspec.structs.replace(arrays("a"), file=ContentFile(sha256="A" * 64, bytes=1)),
        msgspec.structs.replace(config(), kind="other"),
    ],
)
def test_what_the_receiver_would_refuse_is_not_sent(record: Record) -> None:
    with pytest.raises(UpdateRefused, match="a record is invalid: "):
        encode_records([record])


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([config(a=1), config(b=2)], "the content has two records 'config'"),
        ([arrays("a", "b", "a")], "the record 'arrays' has two arrays 'a'"),
        (
            [Record(name="r", kind="metrics", arrays=arrays("a").arrays)],
            "the record 'r' of metrics has arrays",
        ),
        ([Record(name="r", kind="arrays", values={"a": 1})], "the record 'r' of arrays has values"),
        (
            [Record(name="r", kind="config", file=ContentFile(sha256="a" * 64, bytes=1))],
            "the record 'r' of config has a file",
        ),
    ],
)
def test_records_that_contradict_themselves_are_refused_on_both_sides(
    records: list[Record], why: str
) -> None:
    with pytest.raises(UpdateRefused, match=why):
        encode_records(records)
    with pytest.raises(UpdateRefused, match=why):
        decode_records(msgspec.msgpack.encode(records))


def test_more_arrays_than_allowed_are_refused() -> None:
    many = arrays(*map(str, range(MOST_ARRAYS)))
    assert len(decode_records(encode_records([many]))[0].arrays) == MOST_ARRAYS
    with pytest.raises(UpdateRefused, match="more than 20,000 arrays"):
        encode_records([many, msgspec.structs.replace(arrays("one"), name="more")])


def test_records_that_are_too_large_are_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_records([config(text="x" * 1000)])
    monkeypatch.setattr(message_content, "LARGEST_RECORDS", len(data) - 1)
    with pytest.raises(UpdateRefused, match="send large values as arrays"):
        encode_records([config(text="x" * 1000)])
    with pytest.raises(UpdateRefused, match="at most 1,0"):
        decode_records(data)


def test_deeply_nested_bytes_are_refused_and_do_not_exhaust_the_stack() -> None:
    with pytest.raises(UpdateRefused, match="cannot be decoded"):
        decode_records(b"\x91" * 100_000)


def test_records_of_a_later_version_with_more_fields_are_read() -> None:
    data = msgspec.msgpack.encode([{"name": "config", "kind": "config", "values": {"a": 1}, "later": 2}])
    assert decode_records(data) == (config(a=1),)


# ---------------------------------------------------------------- files
def written(found: dict[str, weights.Encoded]) -> bytes:
    target = io.BytesIO()
    weights.write(found, target)
    return target.getvalue()


@st.composite
def filled(draw: st.DrawFn) -> tuple[tuple[Record, ...], list[bytes]]:
    content = draw(CONTENT)
    return content, [draw(st.binary(min_size=e.bytes, max_size=e.bytes)) for e in carried(content)]


@settings(deadline=None)
@given(filled())
def test_a_file_of_content_is_read_as_it_was_written(found: tuple[tuple[Record, ...], list[bytes]]) -> None:
    content, data = found
    file = written(content_arrays(content, data))
    assert read_content(io.BytesIO(file).read, len(file)) == (content, data)
    names = [name for name, _ in weights.in_file_order(weights.read_layout(file, len(file))).items()]
    assert names == [RECORDS, *map(str, range(len(data)))]


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_a_separate_file_has_the_data_alone(data: list[bytes]) -> None:
    file = written(data_arrays([len(item) for item in data], data))
    assert read_data(io.BytesIO(file).read, len(file)) == data


def test_arrays_in_a_separate_file_are_not_carried() -> None:
    apart = msgspec.structs.replace(
        arrays("large"), name="model", file=ContentFile(sha256="a" * 64, bytes=4_000)
    )
    assert [entry.name for entry in carried([apart, arrays("small"), config(a=1)])] == ["small"]


def test_the_data_are_taken_one_by_one_as_the_file_is_written() -> None:
    taken: list[int] = []

    def data() -> Any:
        for number in range(3):
            taken.append(number)
            yield bytes([number] * 4)

    found = content_arrays([arrays("a", "b", "c")], data())
    assert taken == []
    blocks = iter(found["0"].blocks)
    next(blocks)
    assert taken == [0]


def test_data_of_another_size_than_the_record_states_are_an_error_of_the_writer() -> None:
    with pytest.raises(ValueError, match="0"):
        written(content_arrays([arrays("a")], [b"12345"]))
