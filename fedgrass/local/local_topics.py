"""Local publish and subscribe: messages between the components of one core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from fedgrass.local.access_control import topic_matches
from fedgrass.local.json_parts import count_parts


@dataclass(eq=False)
class LocalSubscription:
    """One component's interest in a local topic."""

    component: str
    topic_filter: str
    from_others_only: bool
    deliver: Callable[[Mapping[str, object]], None]
    lose: Callable[[], None]
    """Called in the place of `deliver` for an event that the nucleus cannot decode."""


_ENVELOPE_PARTS: Final = 6
"""Topic, type and message: what surrounds a message within Nucleus Lite."""


class LocalTopics:
    """Hands a published message to every subscription at once; nothing is kept.

    Args:
        most_parts: of an event; a larger one is lost, and with it each subscription that it comes to. None:
            no limit.
    """

    def __init__(self, most_parts: int | None = None) -> None:
        self._most_parts = most_parts
        self._subscriptions: list[LocalSubscription] = []

    def subscribe(self, subscription: LocalSubscription) -> None:
        """From now on give matching messages to `subscription.deliver`."""
        self._subscriptions.append(subscription)

    def unsubscribe(self, subscription: LocalSubscription) -> None:
        """End a subscription."""
        self._subscriptions.remove(subscription)

    def publish(self, component: str, topic: str, message: Mapping[str, object], content: object) -> None:
        """Give the event `message` to all subscriptions of `topic`; `content` is what the publisher sent."""
        is_lost = self._most_parts is not None and count_parts(content) + _ENVELOPE_PARTS > self._most_parts
        for subscription in list(self._subscriptions):
            if subscription.from_others_only and subscription.component == component:
                continue
            if not topic_matches(subscription.topic_filter, topic):
                continue
            if is_lost:
                subscription.lose()
            else:
                subscription.deliver(message)
