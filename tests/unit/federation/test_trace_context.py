"""The trace of a round: its ids and its context, and the timelines of devices."""

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from fedgrass.federation import messages
from fedgrass.federation.errors import MessageError, SettingsError
from fedgrass.federation.messages import Announcement, Completion
from fedgrass.federation.messages.message_types import LONGEST_TIMELINE
from fedgrass.federation.messages.trace_context import (
    TOTAL,
    format_timeline,
    parse_timeline,
    placed_at,
    span_id,
    trace_id,
    traceparent,
)
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import LARGEST_TRAINING, parse_settings
from tests.fakes.small_fleet import FLEET, RUN, SmallFleet
from tests.unit.federation.test_messages import LARGEST

OPENED = 1_700_000_000_123
TRACE = trace_id("garden", "run-1", 1, 1, OPENED)
names = st.text("abcdefghij_", min_size=1, max_size=16).filter(lambda name: name != TOTAL)
seconds = st.floats(0, 10**6, allow_nan=False)


def test_a_trace_is_told_from_others_by_fleet_run_round_and_attempt() -> None:
    ids = {
        trace_id(fleet, run, number, attempt, OPENED)
        for fleet in ("garden", "field")
        for run in ("run-1", "run-2")
        for number in (1, 2)
        for attempt in (1, 2)
    }
    assert len(ids) == 16
    assert all(len(found) == 32 and found.startswith(f"{OPENED // 1000:08x}") for found in ids)


def test_spans_of_two_devices_and_of_two_parts_have_different_ids() -> None:
    spans = {span_id(TRACE, name, device) for name in ("train", "upload") for device in ("", "a", "b")}
    assert len(spans) == 6
    assert all(len(found) == 16 for found in spans)


def test_every_announcement_of_a_round_carries_the_same_context() -> None:
    fleet = SmallFleet(devices=2, trace=True)
    fleet.start()
    opened = fleet.newest()
    expected = traceparent(trace_id(FLEET, RUN, 1, 1, opened.opened_at))
    fleet.pass_time(61)
    fleet.remind()  # announced again
    carried = [found.trace for name in fleet.names for found in fleet.announced(name)]
    assert len(carried) > 2
    assert set(carried) == {expected}


def test_a_run_without_traces_announces_what_it_always_has() -> None:
    fleet = SmallFleet(devices=1)
    fleet.start()
    assert fleet.announced("thing-0")[-1].trace is msgspec.UNSET
    assert b"trace" not in messages.encode(fleet.announced("thing-0")[-1])


@pytest.mark.parametrize("context", ["", "00-zz-1-01", traceparent(TRACE) + "\n", traceparent(TRACE).upper()])
def test_a_context_that_w3c_does_not_allow_is_refused(context: str) -> None:
    fields = msgspec.to_builtins(LARGEST[0])
    with pytest.raises(MessageError, match=r"\$\.trace"):
        messages.decode(msgspec.json.encode({**fields, "trace": context}), Announcement)


def test_the_largest_announcement_has_room_for_its_context() -> None:
    largest = msgspec.structs.replace(LARGEST[0], trace=traceparent(TRACE))
    assert messages.decode(messages.encode(largest), Announcement) == largest


def test_the_largest_training_of_a_run_leaves_room_for_the_context() -> None:
    def settings(size: int, **others: object) -> RunSettings:
        return parse_settings({"task": "digits", "training": {"x": "y" * (size - len('{"x":""}'))}, **others})

    settings(LARGEST_TRAINING)
    settings(LARGEST_TRAINING - 66, trace=True)
    with pytest.raises(SettingsError, match=r"at most 2,834 are allowed next to its `trace`"):
        settings(LARGEST_TRAINING - 65, trace=True)


def test_the_timeline_of_a_reply_is_kept_with_the_device() -> None:
    fleet = SmallFleet(devices=1, trace=True)
    fleet.start()
    opened = fleet.newest()
    fleet.reply("thing-0", timeline="train:10-900,total:0-950")
    assert fleet.part("thing-0", opened).timeline == "train:10-900,total:0-950"


def test_a_device_that_knows_no_timelines_is_counted_as_ever() -> None:
    fleet = SmallFleet(devices=1, trace=True)
    fleet.start()
    opened = fleet.newest()
    fleet.reply("thing-0")
    assert fleet.part("thing-0", opened).timeline == ""


@given(st.dictionaries(names, st.tuples(seconds, seconds), max_size=7), seconds)
def test_what_a_device_formats_a_message_can_carry(
    parts: dict[str, tuple[float, float]], total: float
) -> None:
    text = format_timeline(parts, total)
    assert len(text) <= LONGEST_TIMELINE
    if text:
        completion = msgspec.to_builtins(next(each for each in LARGEST if isinstance(each, Completion)))
        short = {**completion, "metrics": {}, "train_metrics": {}, "timeline": text}
        assert messages.decode(msgspec.json.encode(short), Completion).timeline == text


@given(st.dictionaries(names, st.tuples(seconds, seconds).map(sorted).map(tuple), max_size=4), seconds)
def test_a_timeline_comes_back_in_milliseconds(parts: dict[str, tuple[float, float]], more: float) -> None:
    total = max([end for _, end in parts.values()], default=0.0) + more
    text = format_timeline(parts, total)
    assert not text or parse_timeline(text) == {
        **{name: (round(start * 1000), round(end * 1000)) for name, (start, end) in parts.items()},
        TOTAL: (0, round(total * 1000)),
    }


@given(st.text(max_size=300) | st.from_regex(r"([a-z]{1,3}:[0-9]{1,3}-[0-9]{1,3},?){1,4}"))
def test_any_text_is_a_timeline_or_none(text: str) -> None:
    found = parse_timeline(text)
    assert found is None or all(0 <= start <= end <= found[TOTAL][1] for start, end in found.values())


@pytest.mark.parametrize(
    "text",
    ["", "train:1-2", "train:5-3,total:0-9", "train:5-10,total:0-9", "total:0-9,", "train:1-2;total:0-9"],
)
def test_a_timeline_that_contradicts_itself_is_useless(text: str) -> None:
    assert parse_timeline(text) is None


def test_what_the_device_did_not_measure_is_halved_between_both_ways() -> None:
    assert placed_at(1_000, 1_500, 400) == (1_050, 50)


def test_a_device_whose_clock_runs_fast_begins_when_it_was_announced() -> None:
    assert placed_at(1_000, 1_500, 700) == (1_000, 0)
