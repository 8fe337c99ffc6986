"""Messages: any input is a message or raises MessageError, and no message is too large to be delivered."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from fedgrass.federation import messages
from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages import (
    LARGEST_MESSAGE,
    Announcement,
    CarriedFile,
    Completion,
    Heartbeat,
    Hello,
    LogRequest,
    Message,
    ModelAlias,
    NewModel,
    RoundChange,
    RoundFigures,
    Status,
    Verdict,
    WorkMessage,
    message_codec,
    message_fields,
    message_types,
)
from fedgrass.federation.messages.message_fields import MOST_CARRIED
from fedgrass.federation.messages.message_types import Encoding
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import LARGEST_TRAINING

MOST = 2**53
RUN = "r" * 64
WORK: dict[str, Any] = {"run": RUN, "round": MOST, "attempt": MOST}
# A control character takes six bytes of JSON, more than any other character.
LONGEST_REASON = message_fields.shorten("\x01" * 10_000)
LARGEST: list[Message] = [
    Announcement(
        **WORK,
        work="evaluate",
        task="t" * 32,
        announced_at=MOST,
        deadline_seconds=604_799.9990000001,
        bucket="b" * 63,
        model_key=f"models/{RUN}/{MOST}.bfloat16.safetensors",
        model_sha256="f" * 64,
        model_bytes=MOST,
        settings={"x": "y" * (LARGEST_TRAINING - len('{"x":""}'))},
        download=Encoding(kind="bfloat16"),
        upload=Encoding(kind="top_k", difference=True, fraction=0.12345678901234568),
        allow_partial=False,
        carried={
            f"s{number:s<31}": CarriedFile(
                key=f"models/{RUN}/{MOST}.s{number:s<31}.safetensors", sha256="f" * 64, bytes=MOST
            )
            for number in map(str, range(MOST_CARRIED))
        },
        continues=RUN,
    ),
    Verdict(**WORK, counted=False, reason=LONGEST_REASON),
    LogRequest(id="f" * 32, bucket="b" * 63, expires_at=MOST),
    Completion(
        **WORK,
        round_id=messages.round_id(RUN, MOST, MOST),
        announced_at=MOST,
        bytes=MOST,
        checksum="f" * 32,
        examples=MOST,
        metrics={f"{number:064}": -1.2345678901234567e-308 for number in range(12)},
        examples_evaluated=MOST,
        unsent_metrics="\x01" * 200,
        train_metrics={f"{number:064}": -1.2345678901234567e-308 for number in range(12, 24)},
        download_seconds=0.12345678901234568,
        evaluate_seconds=0.12345678901234568,
        train_seconds=0.12345678901234568,
        upload_seconds=0.12345678901234568,
        partial=False,
    ),
    Status(**WORK, state="progress", reason=LONGEST_REASON, progress=0.12345678901234568),
    Hello(component_version="255.255.255"),
    Heartbeat(
        state="working",
        tasks=",".join(["t" * 32] * 24),
        examples=MOST,
        component_version="255.255.255",
        uptime_seconds=0.12345678901234568,
        attributes={f"{'a' * 30}{number:02}": "\u20ac" * 16 for number in range(16)},
        metrics=",".join(["m" * 64] * 7),
        configuration_error="x" * 200,
        connection_error="x" * 200,
    ),
    RoundChange(
        run=RUN, round=MOST, attempt=MOST, state="AGGREGATING", device="d" * 128, text=LONGEST_REASON
    ),
    RoundChange(
        run=RUN,
        round=MOST,
        attempt=MOST,
        state="ABANDONED",
        text=message_fields.shorten_to_bytes(LONGEST_REASON, 512),
        figures=RoundFigures(
            asked=MOST,
            accepted=MOST,
            declined=MOST,
            failed=MOST,
            silent=MOST,
            late=MOST,
            refused=MOST,
            replied=MOST,
            needed=MOST,
            bytes_up=MOST,
            bytes_down=MOST,
            opening_seconds=0.12345678901234568,
            averaging_seconds=0.12345678901234568,
            metrics={f"{number:064}": -1.2345678901234567e-308 for number in range(24)},
            metrics_left_out=MOST,
        ),
    ),
    NewModel(
        task="t" * 32,
        run=RUN,
        round=MOST,
        bucket="b" * 63,
        key=f"models/{RUN}/{MOST}.safetensors",
        sha256="f" * 64,
        bytes=MOST,
        closed_at=MOST,
    ),
    ModelAlias(
        alias="a" * 32,
        serial=MOST,
        model=NewModel(
            task="t" * 32,
            run=RUN,
            round=MOST,
            bucket="b" * 63,
            key=f"models/{RUN}/{MOST}.safetensors",
            sha256="f" * 64,
            bytes=MOST,
            closed_at=MOST,
        ),
    ),
]
KINDS = [type(message) for message in LARGEST]
by_kind = pytest.mark.parametrize("message", LARGEST, ids=lambda message: type(message).__name__)


@by_kind
def test_every_message_at_its_largest_fits_and_comes_back(message: Message) -> None:
    text = messages.encode(message)
    assert len(text) <= LARGEST_MESSAGE
    assert messages.decode(text, type(message)) == message


@by_kind
def test_a_message_of_another_version_is_refused_by_both_numbers(message: Message) -> None:
    newer = msgspec.json.encode({**msgspec.to_builtins(message), "version": 2})
    if not isinstance(message, WorkMessage):
        return  # accepted in every version: tests/contracts/test_message_versions.py
    with pytest.raises(MessageError, match="version 2; this side supports version 1"):
        messages.decode(newer, type(message))


@by_kind
def test_a_field_that_is_not_known_is_ignored(message: Message) -> None:
    more = msgspec.json.encode({**msgspec.to_builtins(message), "z": 1})
    assert messages.decode(more, type(message)) == message


@by_kind
def test_a_required_field_that_is_missing_is_named(message: Message) -> None:
    whole = msgspec.to_builtins(message)
    required = [field.name for field in msgspec.structs.fields(type(message)) if field.required]
    for name in required:
        part = {key: value for key, value in whole.items() if key != name}
        with pytest.raises(MessageError, match=f"`{name}`"):
            messages.decode(msgspec.json.encode(part), type(message))


@given(st.binary(max_size=300), st.sampled_from(KINDS))
def test_any_bytes_are_a_message_or_refused(data: bytes, kind: type[Message]) -> None:
    readers: list[Callable[[], Message]] = [
        lambda: messages.decode(data, kind),
        lambda: messages.decode_announce(data),
    ]
    for read in readers:
        try:
            message = read()
        except MessageError as error:
            assert str(error)  # noqa: PT017 - any other exception fails the test by itself
        else:
            assert _is_valid(type(message), json.loads(data))


def _is_valid(kind: type[Message], fields: Any) -> bool:
    """Return whether the protocol allows a message, by rules independent of the decoder."""
    try:
        message = msgspec.convert(fields, kind)
    except msgspec.ValidationError:
        return False
    if isinstance(message, WorkMessage) and message.version not in message_types.SPOKEN:
        return False
    if isinstance(message, Announcement):
        upload, download = message.upload, message.download
        if upload.kind == "top_k" and not upload.difference:
            return False
        return download.kind != "top_k" and not download.difference
    if isinstance(message, Completion):
        return message.round_id == f"{message.run}/{message.round}/{message.attempt}"
    return True


odd_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


odd_encodings = st.fixed_dictionaries(
    {"kind": st.sampled_from(["top_k", "int8"]), "difference": st.booleans()},
    optional={"fraction": st.just(0.1)},
)
# Fields with a rule beyond their type, and values of the right type.
RULED: dict[str, st.SearchStrategy[Any]] = {
    "version": st.integers(-1, 3),
    "round_id": st.just(f"{RUN}/{MOST}/{MOST}") | st.just(f"{RUN}/1/{MOST}"),
    "upload": odd_encodings,
    "download": odd_encodings,
}
VALUES = [value for message in LARGEST for value in msgspec.to_builtins(message).values()]


@by_kind
@given(st.data())
def test_a_message_with_any_value_in_any_field_is_a_message_or_refused(
    message: Message, data: st.DataObject
) -> None:
    fields = msgspec.to_builtins(message)
    name = data.draw(st.sampled_from(sorted(RULED.keys() & fields.keys())) | st.sampled_from(sorted(fields)))
    fields[name] = data.draw(RULED.get(name, odd_values | st.sampled_from(VALUES)))
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    try:
        found = messages.decode(text, type(message))
    except MessageError as error:
        assert str(error)  # noqa: PT017 - any other exception fails the test by itself
        refused_as_text = len(text) > LARGEST_MESSAGE or not _is_json(text)
        assert refused_as_text or not _is_valid(type(message), fields), f"{name} = {fields[name]!r}"
    else:
        assert len(text) <= LARGEST_MESSAGE
        assert _is_valid(type(message), fields), f"{name} = {fields[name]!r} was accepted"
        assert found == msgspec.convert(fields, type(message))


def _is_json(text: bytes) -> bool:
    """Return whether a text is strict JSON, without NaN and Infinity, which Python accepts."""
    constants: list[str] = []
    json.loads(text, parse_constant=constants.append)
    return not constants


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no",
        b"\xff\xfe",
        b'{"version":1',
        b'"text"',
        b"[]",
        b"{}",
        b'{"version":"1"}',
        b'{"version":1.5}',
    ],
)
def test_a_text_that_is_not_a_versioned_object_is_refused(text: bytes) -> None:
    with pytest.raises(MessageError, match=r"not JSON|a JSON object with a version"):
        messages.decode(text, Hello)


@pytest.mark.parametrize("depth", [1_000, 4_000])
def test_brackets_without_end_are_refused_and_not_a_crash(depth: int) -> None:
    nested = b'{"version":1,"x":' + b"[" * depth
    for read in (lambda: messages.decode(nested, Hello), lambda: messages.decode_announce(nested)):
        with pytest.raises(MessageError):
            read()


def test_the_receiver_refuses_one_byte_more_than_the_limit() -> None:
    text = messages.encode(Hello())
    full = text + b" " * (LARGEST_MESSAGE - len(text))
    assert messages.decode(full, Hello) == Hello()
    with pytest.raises(MessageError, match="4097 bytes; at most 4096 are allowed"):
        messages.decode(full + b" ", Hello)
    with pytest.raises(MessageError, match="4097 bytes"):
        messages.decode_announce(full + b" ")


def test_the_sender_refuses_one_byte_more_than_the_limit() -> None:
    room = LARGEST_MESSAGE - len(messages.encode(Hello()))
    assert len(messages.encode(Hello(component_version="v" * room))) == LARGEST_MESSAGE
    with pytest.raises(MessageError, match="4097 bytes"):
        messages.encode(Hello(component_version="v" * (room + 1)))


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"loss": math.nan}},
        {"metrics": {"loss": math.inf}},
        {"metrics": {"\u00e9" * 3: 1.0}},
        {"examples": 0},
        {"examples": MOST + 1},
        {"checksum": "F" * 32},
        {"run": "a/b"},
        {"round_id": "other/1/1"},
        {"train_seconds": math.nan},
    ],
)
def test_the_sender_refuses_what_the_receiver_would(changes: dict[str, Any]) -> None:
    completion = next(message for message in LARGEST if isinstance(message, Completion))
    with pytest.raises(MessageError):
        messages.encode(msgspec.structs.replace(completion, **changes))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a b", 1),
        ("1a", 1),
        ("", 1),
        ("a" * 33, 1),
        ("a", "x" * 65),
        ("a", 'x"'),
        ("a", "x'"),
        ("a", "x\\"),
        ("a", "x\n"),
        ("a", None),
        ("a", [1]),
        ("a", math.inf),
    ],
)
def test_an_attribute_that_no_condition_could_name_is_refused(name: str, value: Any) -> None:
    heartbeat = next(message for message in LARGEST if isinstance(message, Heartbeat))
    with pytest.raises(MessageError):
        messages.encode(msgspec.structs.replace(heartbeat, attributes={name: value}))


def test_a_heartbeat_without_attributes_is_still_accepted() -> None:
    text = b'{"version":1,"state":"idle","tasks":"a","examples":1,"component_version":"1","uptime_seconds":2}'
    heartbeat = messages.decode(text, Heartbeat)
    assert (heartbeat.attributes, heartbeat.metrics) == ({}, "")


def test_text_that_is_not_unicode_is_refused_by_the_sender() -> None:
    with pytest.raises(MessageError, match="not Unicode"):
        messages.encode(Hello(component_version="\ud800"))


def test_numbers_up_to_the_limit_of_json_are_exact() -> None:
    completion = next(message for message in LARGEST if isinstance(message, Completion))
    assert messages.decode(messages.encode(completion), Completion).announced_at == MOST


def test_an_announcement_a_verdict_and_a_request_for_log_lines_are_told_apart() -> None:
    for message in LARGEST[:3]:
        assert messages.decode_announce(messages.encode(message)) == message
    with pytest.raises(MessageError, match="not a valid announcement"):
        messages.decode_announce(messages.encode(Hello()))


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        setattr(Hello(), "version", 2)  # noqa: B010 - mypy would reject the assignment


@pytest.mark.parametrize("training", [{"x": "y" * 2_890}, {"a\x01" * 20: "\x01" * 400}])
def test_all_training_options_that_settings_allow_fit_an_announcement(training: dict[str, Any]) -> None:
    settings = msgspec.convert({"task": "digits", "training": training}, RunSettings)
    announcement = next(message for message in LARGEST if isinstance(message, Announcement))
    assert len(msgspec.json.encode(settings.training)) <= LARGEST_TRAINING
    assert messages.encode(msgspec.structs.replace(announcement, settings=settings.training))


def test_a_reason_is_shortened_to_what_fits_and_marked() -> None:
    assert message_fields.shorten("short") == "short"
    assert message_fields.shorten("x" * 600) == "x" * 511 + "\u2026"


def test_messages_may_first_be_read_on_many_threads() -> None:
    """Otherwise msgspec 0.22 can crash: the types have to be used when the module is imported."""
    kinds = set(messages.Message.__subclasses__()) | set(messages.WorkMessage.__subclasses__())
    assert set(message_codec._DECODERS) == kinds - {messages.WorkMessage}
    program = """
import sys, threading
sys.setswitchinterval(1e-6)
from fedgrass.federation import messages
barrier = threading.Barrier(8)
def read():
    barrier.wait()
    messages.decode(b'{"version": 1, "component_version": "1"}', messages.Hello)
threads = [threading.Thread(target=read) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@given(st.text(max_size=600), st.integers(16, 600))
def test_a_text_that_is_shortened_to_bytes_has_no_more_and_begins_as_it_was(text: str, most: int) -> None:
    short = message_fields.shorten_to_bytes(text, most)
    assert len(msgspec.json.encode(short)) <= most
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))
