"""An index of the broker's subscriptions by their topic filters.

MiniStack compares every message with every subscription: with 1,000 devices that subscribe to topics of their
own, each message takes 1,000 comparisons. The index is a tree with a level per part of a filter, as other
brokers have it: a message only meets the filters along the parts of its topic.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec

from msgspec import Struct, field

Arguments = ParamSpec("Arguments")

# Of the message that is being published: the topic with its account and region, as subscriptions have them.
_published: ContextVar[str | None] = ContextVar("_published", default=None)


class _Level(Struct):
    """A part of filters: the parts that may follow it, and the filters that end with it."""

    following: "dict[str, _Level]" = field(default_factory=dict)
    filters: set[str] = field(default_factory=set)


class TopicTree:
    """A set of topic filters with the wildcards ``+`` and ``#``."""

    def __init__(self) -> None:
        self._root = _Level()

    def add(self, topic_filter: str) -> None:
        """Add a filter, unless it is there."""
        level = self._root
        for part in _parts(topic_filter):
            level = level.following.setdefault(part, _Level())
        level.filters.add(topic_filter)

    def remove(self, topic_filter: str) -> None:
        """Remove a filter, if it is there, with the levels that no other filter needs."""
        parts, path = _parts(topic_filter), [self._root]
        for part in parts:
            if (found := path[-1].following.get(part)) is None:
                return
            path.append(found)
        path[-1].filters.discard(topic_filter)
        for part in reversed(parts):
            last = path.pop()
            if last.filters or last.following:
                return
            del path[-1].following[part]

    def matching(self, topic: str) -> Iterator[str]:
        """Yield the filters that match a topic; ``a/#`` matches ``a`` too, as in the MQTT specification."""
        levels = [self._root]
        for part in topic.split("/"):
            yield from _ending_in_wildcard(levels)
            names = dict.fromkeys((part, "+"))
            levels = [level.following[name] for level in levels for name in names if name in level.following]
        yield from _ending_in_wildcard(levels)
        for level in levels:
            yield from sorted(level.filters)


def _parts(topic_filter: str) -> list[str]:
    """Return the parts of a filter up to ``#``: the broker ignores what follows it."""
    parts = topic_filter.split("/")
    return parts[: parts.index("#") + 1] if "#" in parts else parts


def _ending_in_wildcard(levels: list[_Level]) -> Iterator[str]:
    for level in levels:
        if found := level.following.get("#"):
            yield from sorted(found.filters)


class IndexedSubscriptions(dict[str, Any]):
    """MiniStack's sets of subscriptions by filter, of which a message sees only those that may match it.

    MiniStack reads ``values`` for each message and compares the topic with the filter of each. Within
    ``published_on`` they are the sets of matching filters; MiniStack's comparison still decides.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tree = TopicTree()

    def __setitem__(self, topic_filter: str, subscriptions: Any) -> None:
        """Store the subscriptions to a filter."""
        super().__setitem__(topic_filter, subscriptions)
        self._tree.add(topic_filter)

    def __delitem__(self, topic_filter: str) -> None:
        """Remove the subscriptions to a filter."""
        super().__delitem__(topic_filter)
        self._tree.remove(topic_filter)

    def setdefault(self, topic_filter: str, default: Any = None) -> Any:
        """Return the subscriptions to a filter; store ``default`` if there are none."""
        if topic_filter not in self:
            self[topic_filter] = default
        return self[topic_filter]

    def pop(self, topic_filter: str, *default: Any) -> Any:
        """Remove and return the subscriptions to a filter."""
        self._tree.remove(topic_filter)
        return super().pop(topic_filter, *default)

    def clear(self) -> None:
        """Remove all subscriptions."""
        super().clear()
        self._tree = TopicTree()

    def values(self) -> Any:
        """Return the sets of subscriptions: all, or for a message those whose filters match its topic."""
        topic = _published.get()
        if topic is None:
            return super().values()
        return [self[topic_filter] for topic_filter in self._tree.matching(topic)]


def published_on(
    publish: Callable[Arguments, Awaitable[None]],
) -> Callable[Arguments, Awaitable[None]]:
    """Return a ``publish(account, region, topic, ...)`` during which subscriptions are looked up by topic."""

    async def publish_to_matching(*arguments: Arguments.args, **options: Arguments.kwargs) -> None:
        named = dict(zip(("account_id", "region", "topic"), arguments, strict=False)) | options
        token = _published.set(f"{named['account_id']}/{named['region']}/{named['topic']}")
        try:
            await publish(*arguments, **options)
        finally:
            _published.reset(token)

    return publish_to_matching
