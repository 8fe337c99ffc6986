"""The index of the embedded broker's subscriptions finds those that MiniStack's comparisons find."""

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ministack.services import iot

from fedgrass.local.aws.topic_index import IndexedSubscriptions, TopicTree, published_on

SCOPE = ("000000000000", "us-east-1")

part = st.sampled_from(["a", "b", "fedgrass", "$aws", "events", "things", "", "$share"])
topics = st.lists(part, min_size=1, max_size=5).map("/".join)
filters = st.lists(part | st.sampled_from(["+", "#"]), min_size=1, max_size=5).map("/".join)


def original(found: Iterable[str], topic: str) -> set[str]:
    """Return the filters that match a topic by MiniStack's own comparison."""
    return {each for each in found if iot._subscription_matches(each, topic)}


def tree_of(found: Iterable[str]) -> TopicTree:
    tree = TopicTree()
    for each in found:
        tree.add(each)
    return tree


@given(st.sets(filters, max_size=12), st.sets(filters, max_size=4), topics)
def test_the_filters_found_for_a_topic_are_those_that_match_it(
    kept: set[str], removed: set[str], topic: str
) -> None:
    tree = tree_of(kept | removed)
    for each in sorted(removed):
        tree.remove(each)
    found = list(tree.matching(topic))
    assert len(found) == len(set(found))
    # MiniStack compares once more: it gives nothing of `$aws/events` to `#`, and nothing of `a` to `a/#`.
    assert original(found, topic) == original(kept - removed, topic)
    assert all(iot._topic_matches(each, topic) or each.endswith("/#") for each in found)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "matches"),
    [
        ("fedgrass/garden/clients/thing-1/announce", "fedgrass/garden/clients/thing-1/announce", True),
        ("fedgrass/garden/clients/thing-1/announce", "fedgrass/garden/clients/thing-10/announce", False),
        ("fedgrass/garden/#", "fedgrass/garden/runs/run-1/model", True),
        ("fedgrass/+/models", "fedgrass/garden/models", True),
        ("fedgrass/+/models", "fedgrass/garden/gate/models", False),
        ("+/+", "a/", True),
        ("+", "a/b", False),
        ("#", "a/b/c", True),
        ("a/+/#", "a/b/c/d", True),
        ("a/b/c", "a/b", False),
        ("a/b", "a/b/c", False),
    ],
)
def test_a_wildcard_stands_for_a_part_or_for_the_rest(topic_filter: str, topic: str, matches: bool) -> None:  # noqa: FBT001 - the expected result
    assert list(tree_of([topic_filter, "x/y"]).matching(topic)) == [topic_filter] * matches


def test_a_tree_whose_filters_were_removed_keeps_nothing() -> None:
    tree = tree_of(f"fedgrass/garden/clients/thing-{number}/announce" for number in range(100))
    tree.remove("fedgrass/garden/clients/stranger/announce")
    for number in range(100):
        tree.remove(f"fedgrass/garden/clients/thing-{number}/announce")
    assert not tree._root.following


class _Broker:
    """MiniStack's broker with indexed subscriptions, and the messages that its subscribers got."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.received: list[tuple[str, str]] = []
        self.subscriptions = IndexedSubscriptions()
        monkeypatch.setattr(iot, "_subscriptions", self.subscriptions)
        monkeypatch.setattr(iot, "_broker_lock", asyncio.Lock())
        monkeypatch.setattr(iot, "broker_publish", published_on(iot.broker_publish))

    async def subscribe(self, topic_filter: str) -> str:
        async def deliver(topic: str, _payload: bytes, _qos: int) -> None:
            self.received.append((topic_filter, topic))

        subscription: str = await iot.broker_subscribe(*SCOPE, topic_filter, deliver)
        return subscription


@given(st.lists(filters, max_size=8), st.lists(topics, min_size=1, max_size=4))
def test_ministacks_broker_delivers_to_the_same_subscribers(found: list[str], published: list[str]) -> None:
    expected = sorted((each, topic) for topic in published for each in found if original([each], topic))
    with pytest.MonkeyPatch.context() as monkeypatch:
        broker = _Broker(monkeypatch)

        async def play() -> None:
            subscriptions = [await broker.subscribe(each) for each in found]
            for topic in published:
                await iot.broker_publish(*SCOPE, topic=topic, payload=b"")
            for subscription in subscriptions:
                await iot.broker_unsubscribe(subscription)
            await iot.broker_publish(*SCOPE, published[0], b"")

        asyncio.run(play())
    assert sorted(broker.received) == expected
    assert not broker.subscriptions


def test_a_message_meets_only_the_subscribers_of_its_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = _Broker(monkeypatch)
    compared: list[str] = []
    matches = iot._subscription_matches

    def compare(topic_filter: str, topic: str) -> bool:
        compared.append(topic_filter)
        return bool(matches(topic_filter, topic))

    monkeypatch.setattr(iot, "_subscription_matches", compare)

    async def play() -> None:
        for number in range(200):
            await broker.subscribe(f"fedgrass/garden/clients/thing-{number}/announce")
        await broker.subscribe("fedgrass/garden/#")
        await iot.broker_publish(*SCOPE, "fedgrass/garden/clients/thing-7/announce", b"")

    asyncio.run(play())
    assert len(broker.received) == len(compared) == 2
