"""Local publish and subscribe: messages between the components of one core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedgrass.local.access_control import topic_matches


@dataclass(eq=False)
class LocalSubscription:
    """One component's interest in a local topic."""

    component: str
    topic_filter: str
    from_others_only: bool
    deliver: Callable[[Mapping[str, object]], None]


class LocalTopics:
    """Hands a published message to every subscription at once; nothing is kept."""

    def __init__(self) -> None:
        self._subscriptions: list[LocalSubscription] = []

    def subscribe(self, subscription: LocalSubscription) -> None:
        """From now on give matching messages to `subscription.deliver`."""
        self._subscriptions.append(subscription)

    def unsubscribe(self, subscription: LocalSubscription) -> None:
        """End a subscription."""
        self._subscriptions.remove(subscription)

    def publish(self, component: str, topic: str, message: Mapping[str, object]) -> None:
        """Give `message` to all subscriptions of `topic`."""
        for subscription in list(self._subscriptions):
            if subscription.from_others_only and subscription.component == component:
                continue
            if topic_matches(subscription.topic_filter, topic):
                subscription.deliver(message)
