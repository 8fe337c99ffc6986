"""Which topics `fedgrass watch` subscribes to, and what it shows of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.console.topic_feed.watched_topics import WatchFilter, checked_filter, json_value
from fedgrass.federation.errors import SettingsError


@pytest.mark.parametrize(
    ("wanted", "subscriptions"),
    [
        (WatchFilter(), ["fedgrass/orchard/#"]),
        (WatchFilter(run="apples"), ["fedgrass/orchard/#"]),
        (WatchFilter(device="d1"), ["fedgrass/orchard/clients/d1/+", "fedgrass/orchard/rounds/+"]),
        (WatchFilter(kinds=["round"], run="apples"), ["fedgrass/orchard/rounds/apples"]),
        (WatchFilter(kinds=["round", "round"]), ["fedgrass/orchard/rounds/+"]),
        (
            WatchFilter(kinds=["status", "model"], device="d1"),
            ["fedgrass/orchard/clients/d1/status", "fedgrass/orchard/models/#"],
        ),
        (WatchFilter(topics=["clients/+/hello"]), ["fedgrass/orchard/clients/+/hello"]),
        (WatchFilter(topics=["fedgrass/other/#", "$aws/events/#"]), ["fedgrass/other/#", "$aws/events/#"]),
    ],
)
def test_the_subscriptions_are_as_narrow_as_the_filters(
    wanted: WatchFilter, subscriptions: list[str]
) -> None:
    assert wanted.subscriptions("orchard") == subscriptions


@pytest.mark.parametrize(
    ("topic_filter", "problem"),
    [
        ("", "it has 0 bytes"),
        ("a" * 257, "it has 257 bytes"),
        ("a#", "# has to be the whole last level"),
        ("#/a", "# has to be the whole last level"),
        ("a+/b", "[+] has to be a whole level"),
        ("a/b/c/d/e/f/g/h/i", "8 slashes"),
        ("a\x1b", "cannot be printed"),
    ],
)
def test_what_is_no_topic_filter_is_refused_with_its_problem(topic_filter: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        checked_filter(topic_filter)


@pytest.mark.parametrize(
    "wanted", [WatchFilter(run="a/b"), WatchFilter(device="+"), WatchFilter(device="a/#")]
)
def test_a_name_with_wildcards_is_refused(wanted: WatchFilter) -> None:
    with pytest.raises(SettingsError, match="cannot name"):
        wanted.subscriptions("orchard")


def test_topics_and_kinds_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="--topic excludes --kind"):
        WatchFilter(topics=["clients/#"], kinds=["status"]).subscriptions("orchard")


@pytest.mark.parametrize(
    ("wanted", "topic", "message", "is_shown"),
    [
        (WatchFilter(), "fedgrass/orchard/clients/d1/status", None, True),
        (WatchFilter(run="apples"), "fedgrass/orchard/clients/d1/status", {"run": "apples"}, True),
        (WatchFilter(run="apples"), "fedgrass/orchard/clients/d1/status", {"run": "pears"}, False),
        (WatchFilter(run="apples"), "fedgrass/orchard/clients/d1/heartbeat", {"state": "idle"}, False),
        (WatchFilter(run="apples"), "fedgrass/orchard/rounds/apples", None, True),
        (WatchFilter(run="apples"), "fedgrass/orchard/rounds/pears", {"run": "apples"}, False),
        (WatchFilter(device="d1"), "fedgrass/orchard/clients/d1/status", [], True),
        (WatchFilter(device="d1"), "fedgrass/orchard/clients/d2/status", {"device": "d1"}, False),
        (WatchFilter(device="d1"), "fedgrass/orchard/rounds/apples", {"device": "d1"}, True),
        (WatchFilter(device="d1"), "fedgrass/orchard/rounds/apples", {"device": ["d1"]}, False),
    ],
)
def test_only_messages_of_the_run_and_the_device_are_shown(
    wanted: WatchFilter, topic: str, message: object, *, is_shown: bool
) -> None:
    assert wanted.shows(topic, message) is is_shown


@given(st.text(max_size=300))
def test_any_text_is_a_topic_filter_or_is_refused(text: str) -> None:
    try:
        assert checked_filter(text) == text
    except SettingsError:
        return
    assert "#" not in text[:-1]


@given(st.binary(max_size=100))
def test_any_payload_is_json_or_nothing(payload: bytes) -> None:
    json_value(payload)
    assert json_value(b"[" * 100_000) is None
