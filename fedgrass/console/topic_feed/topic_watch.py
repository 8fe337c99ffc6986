"""``fedgrass watch``: print every message on a fleet's topics as it passes."""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct, to_builtins
from rich.console import Console

from fedgrass.console import stack
from fedgrass.console.tables import console, styled
from fedgrass.console.terminal import complain, say_json_line
from fedgrass.console.topic_feed.signed_address import signed_address
from fedgrass.console.topic_feed.topic_subscription import Link, Received, TopicSubscription
from fedgrass.console.topic_feed.watched_topics import WatchFilter, json_value

_CONNECT_SECONDS = 20.0
_TURN_SECONDS = 0.25
_LONGEST_SHOWN = 5000  # characters of a payload as text; messages of fedgrass have at most 4 KB


class WatchedMessage(Struct, frozen=True, kw_only=True):
    """One message, as ``--output json`` prints it, in one line."""

    at: int  # when it arrived at this machine, in milliseconds since the epoch
    topic: str
    bytes: int  # size of the payload
    message: Any  # the payload as a JSON value; null if it is not JSON
    text: str | None  # the payload as text if it is not JSON; null otherwise


@stack.refusals()
def watch(  # noqa: PLR0913, PLR0917 - one argument per option of the command
    name: str,
    topics: Sequence[str],
    run: str,
    device: str,
    kinds: Sequence[str],
    count: int,
    seconds: float,
    output: str,
) -> None:
    """Print the messages of a stack's fleet until Ctrl-C, or until enough of them or of time has passed.

    Raises:
        SettingsError: a topic filter is invalid.
        FedgrassError: the topics cannot be subscribed to.
    """
    wanted = WatchFilter(topics=topics, run=run, device=device, kinds=kinds)
    subscriptions = wanted.subscriptions(stack.outputs(name)["Fleet"])
    out = console()
    with TopicSubscription(signed_address, subscriptions) as subscription:
        subscription.wait_until_connected(_CONNECT_SECONDS)
        complain(f"watching {', '.join(subscriptions)}; Ctrl-C ends it")
        shown = 0
        for received in _messages(subscription, seconds):
            value = json_value(received.payload)
            if not wanted.shows(received.topic, value):
                continue
            if output == "json":
                _print_json(received, value)
            else:
                _print(received, out)
            shown += 1
            if shown == count:
                return


def _messages(subscription: TopicSubscription, seconds: float) -> Iterator[Received]:
    """Yield the messages as they arrive, and report losses on standard error."""
    ends_at = time.monotonic() + seconds if seconds else None
    reported, link = 0, Link.CONNECTED
    while ends_at is None or time.monotonic() < ends_at:
        yield from subscription.take(_TURN_SECONDS)
        status = subscription.status
        if status.dropped > reported:
            complain(
                f"{status.dropped - reported} messages were dropped: they come faster than they are shown"
            )
            reported = status.dropped
        if status.link is not link:
            link = status.link
            complain(f"{link}: {status.error}" if status.error else f"{link}")


def watched_message(received: Received, value: Any) -> WatchedMessage:
    """Return the JSON form of a message; ``value`` is its payload, None if it is not JSON."""
    is_json = value is not None or received.payload.strip() == b"null"
    text = None if is_json else received.payload.decode("utf-8", "backslashreplace")
    return WatchedMessage(
        at=received.at, topic=received.topic, bytes=len(received.payload), message=value, text=text
    )


def _print_json(received: Received, value: Any) -> None:
    say_json_line(to_builtins(watched_message(received, value)))


def _print(received: Received, out: Console) -> None:
    at = datetime.fromtimestamp(received.at / 1000).astimezone()
    text = received.payload.decode("utf-8", "backslashreplace")
    clock = f"{at:%H:%M:%S}.{at.microsecond // 1000:03} "
    line = styled((clock, "dim"), (received.topic, "cyan"), f"  {text}", longest=_LONGEST_SHOWN)
    out.print(line, highlight=False, soft_wrap=True)
