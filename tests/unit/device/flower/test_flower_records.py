"""Records of fedgrass become Flower's and back without a change."""

import enum
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde_utils import record_value_dict_from_proto, record_value_dict_to_proto
from flwr.proto.recorddict_pb2 import ConfigRecordValue

from components.trainer.flower.app_content import Content
from components.trainer.flower.flower_client import content_of, to_record_dict
from fedgrass.federation.task_messages.message_content import (
    ArrayEntry,
    Record,
    decode_records,
    encode_records,
)

NAMES = st.text(min_size=1, max_size=8)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)


def several(*kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(*kinds, *(st.lists(kind, max_size=3) for kind in kinds))


METRICS = several(INTEGERS, FLOATS)
VALUES = several(INTEGERS, FLOATS, st.booleans(), st.text(max_size=5), st.binary(max_size=5))
ARRAYS = st.builds(
    Array,
    dtype=st.text(max_size=8),
    shape=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    stype=st.text(max_size=8),
    data=st.binary(max_size=40),
)
RECORDS = st.dictionaries(
    NAMES,
    st.dictionaries(NAMES, ARRAYS, max_size=3).map(ArrayRecord)
    | st.dictionaries(NAMES, METRICS, max_size=3).map(MetricRecord)
    | st.dictionaries(NAMES, VALUES, max_size=3).map(ConfigRecord),
    max_size=4,
).map(RecordDict)


@given(RECORDS)
def test_every_content_of_flower_survives_a_message(records: Any) -> None:
    content = content_of(records)
    sent = Content(decode_records(encode_records(content.records)), content.data)
    found = to_record_dict(sent)
    assert found == records
    assert [type(record) for record in found.values()] == [type(record) for record in records.values()]
    assert list(found) == list(records)
    assert [list(record) for record in found.values()] == [list(record) for record in records.values()]


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_values_have_the_types_that_flowers_own_messages_give_them(values: dict[str, Any]) -> None:
    protos = record_value_dict_to_proto(
        ConfigRecord(values), [bool, int, float, str, bytes], ConfigRecordValue
    )
    flower = record_value_dict_from_proto(protos)
    content = content_of(RecordDict({"c": ConfigRecord(values)}))
    found = dict(to_record_dict(Content(decode_records(encode_records(content.records))))["c"])
    assert repr(found) == repr(flower)


@given(RECORDS)
def test_the_data_of_arrays_are_the_same_objects_on_both_sides(records: Any) -> None:
    content = content_of(records)
    arrays = [a for record in records.values() if isinstance(record, ArrayRecord) for a in record.values()]
    assert all(one is array.data for one, array in zip(content.data, arrays, strict=True))
    back = [a for r in to_record_dict(content).values() if isinstance(r, ArrayRecord) for a in r.values()]
    assert all(one.data is other.data for one, other in zip(back, arrays, strict=True))


class Number(enum.IntEnum):
    ONE = 1


class Colour(str, enum.Enum):  # noqa: UP042 - unlike StrEnum, str() gives its name
    RED = "red"


def test_values_of_derived_types_become_those_of_python() -> None:
    values: dict[str, Any] = {
        "f": np.float64(0.5),
        "l": [np.float64(1.0), np.float64(2.0)],
        "i": Number.ONE,
        "t": Colour.RED,
        "m": [1, True],
        "e": [],
    }
    record = content_of(RecordDict({"c": ConfigRecord(values)})).records[0]
    assert record.values == {"f": 0.5, "l": [1.0, 2.0], "i": 1, "t": "red", "m": [1, 1], "e": []}
    assert [type(record.values[name]) for name in "fit"] == [float, int, str]
    assert [type(member) for member in [*record.values["l"], *record.values["m"]]] == [float, float, int, int]
    assert decode_records(encode_records([record])) == (record,)


def test_data_in_another_buffer_are_sent_as_bytes() -> None:
    array = Array("uint8", (3,), "raw", b"abc")
    array.data = bytearray(b"abc")
    content = content_of(RecordDict({"a": ArrayRecord()}))
    assert content == Content([Record(name="a", kind="arrays")], [])
    record = ArrayRecord()
    record["x"] = array
    content = content_of(RecordDict({"a": record}))
    assert content.data == [b"abc"]
    assert type(content.data[0]) is bytes
    assert content.records[0].arrays == (
        ArrayEntry(name="x", dtype="uint8", shape=(3,), stype="raw", bytes=3),
    )
