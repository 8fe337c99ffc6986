import struct
from contextlib import suppress
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_manager import (
    ExportDefinition,
    MessageStreamDefinition,
    S3ExportTaskExecutorConfig,
    StatusConfig,
    StatusLevel,
    StrategyOnFull,
)

from greengrass_emulator.stream_manager.stream_protocol import (
    LARGEST_FRAME_BYTES,
    DefinitionRequest,
    Operation,
    ReadRequest,
    Request,
    StreamDefinition,
    StreamManagerError,
    decode_body,
    decode_prefix,
    encode_frame,
    parse,
    without_none,
)

_values = st.recursive(
    st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.integers(-128, 127), st.dictionaries(st.text(), _values, max_size=6))
def test_a_frame_is_read_as_it_was_written(operation: int, fields: dict[str, Any]) -> None:
    frame = encode_frame(operation, fields)
    assert decode_prefix(frame[:4]) == len(frame) - 4
    assert decode_body(frame[4:]) == (operation, fields)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_map_or_a_named_error(body: bytes) -> None:
    with suppress(StreamManagerError):
        _, fields = decode_body(body)
        assert all(isinstance(key, str) for key in fields)


@given(
    st.sampled_from([Request, DefinitionRequest, ReadRequest]),
    st.dictionaries(
        st.sampled_from(["requestId", "definition", "streamName", "readMessagesOptions"]), _values
    ),
)
def test_any_map_is_a_request_or_a_named_error(kind: type[Request], fields: dict[str, Any]) -> None:
    with suppress(StreamManagerError):
        assert parse(fields, kind).request_id == fields["requestId"]


@pytest.mark.parametrize(
    "body",
    [
        b"\x01" + b"\x81" * 100_000 + b"\x01",  # nested too deep
        b"\x01\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01",  # a decimal too large for its type
        b"\x01\xd8\x1c\x81\xd8\x1d\x00",  # a list that contains itself
        b"\x01\xa1\x01\x01",  # a key that is not text
        b"\x01",
        b"",
    ],
)
def test_a_hostile_frame_is_refused(body: bytes) -> None:
    with pytest.raises(StreamManagerError):
        decode_body(body)


@pytest.mark.parametrize("length", [-1, 0, 1, LARGEST_FRAME_BYTES + 1])
def test_a_frame_of_an_impossible_length_is_refused_before_it_is_read(length: int) -> None:
    with pytest.raises(StreamManagerError, match=str(length)):
        decode_prefix(struct.pack(">i", length))


def test_the_definition_of_the_sdk_is_returned_unchanged() -> None:
    status = StatusConfig(status_level=StatusLevel.WARN, status_stream_name="status")
    sent = MessageStreamDefinition(
        name="updates of a fleet",
        strategy_on_full=StrategyOnFull.OverwriteOldestData,
        flush_on_write=True,
        export_definition=ExportDefinition(
            s3_task_executor=[S3ExportTaskExecutorConfig(identifier="s3", priority=3, status_config=status)]
        ),
    ).as_dict()
    assert without_none(parse(sent, StreamDefinition)) == sent


def test_a_field_out_of_bounds_is_named_with_its_bound() -> None:
    fields = {"requestId": "1", "definition": {"name": "s", "maxSize": 1023, "strategyOnFull": 0}}
    with pytest.raises(StreamManagerError, match=r"1024.*definition\.maxSize"):
        parse(fields, DefinitionRequest)


@pytest.mark.parametrize("name", ["", "a/b", "a\n", "n" * 256])
def test_a_stream_name_outside_the_rules_is_refused(name: str) -> None:
    with pytest.raises(StreamManagerError, match="name"):
        parse({"requestId": "1", "definition": {"name": name, "strategyOnFull": 0}}, DefinitionRequest)


def test_fields_that_are_none_are_left_out_at_every_depth() -> None:
    frame = encode_frame(Operation.LIST_RESPONSE, {"a": None, "b": {"c": None, "d": [{"e": None}]}})
    assert cbor2.loads(frame[5:]) == {"b": {"d": [{}]}}
