"""Which topics ``fedgrass watch`` subscribes to, and which of the messages it shows."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from fedgrass.federation import topics
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages.message_fields import checked_name

DEVICE_KINDS = tuple(str(kind) for kind in topics.Kind)
_LONGEST_FILTER = 256  # bytes, AWS IoT's limit
_MOST_SLASHES = 7  # AWS IoT's limit


class WatchFilter(Struct, frozen=True, kw_only=True):
    """What to show. Empty: everything."""

    topics: Sequence[str] = ()  # MQTT topic filters, complete or below fedgrass/<fleet>/
    run: str = ""
    device: str = ""
    kinds: Sequence[str] = ()  # announce, status, complete, heartbeat, hello, predictor, round, model

    def subscriptions(self, fleet: str) -> list[str]:
        """Return the MQTT topic filters that cover what is shown, as narrow as they can be.

        Raises:
            SettingsError: a topic filter or a name is invalid, or both topics and kinds are given.
        """
        for kind, name in (("run", self.run), ("thing", self.device)):
            if name:
                checked_name(kind, name)
        if self.topics and self.kinds:
            message = (
                "--topic excludes --kind: the kind is the last level of a device's topic, clients/+/status"
            )
            raise SettingsError(message)
        root = f"{topics.ROOT}/{fleet}"
        if self.topics:
            return [checked_filter(_complete(one, root)) for one in self.topics]
        if not self.kinds:
            if self.device:  # the changes of rounds name devices too
                return [f"{root}/clients/{self.device}/+", f"{root}/rounds/{self.run or '+'}"]
            return [f"{root}/#"]
        found = []
        for kind in self.kinds:
            if kind == "round":
                found.append(f"{root}/rounds/{self.run or '+'}")
            elif kind == "model":
                found.append(f"{root}/models/#")
            else:
                found.append(f"{root}/clients/{self.device or '+'}/{kind}")
        return list(dict.fromkeys(found))

    def shows(self, topic: str, message: object) -> bool:
        """Return whether to show a message; ``message`` is its JSON value, None if it is not JSON.

        The topic already matches a subscription. A message without a run or a device, such as a heartbeat,
        is not shown if one was asked for.
        """
        levels = topic.split("/")
        fields: Mapping[str, Any] = message if isinstance(message, dict) else {}
        of_device = levels[3] if len(levels) > 4 and levels[2] == "clients" else fields.get("device", "")  # noqa: PLR2004 - fedgrass/<fleet>/clients/<thing>/<kind>
        of_run = levels[3] if len(levels) > 3 and levels[2] == "rounds" else fields.get("run", "")  # noqa: PLR2004 - fedgrass/<fleet>/rounds/<run>
        return (not self.device or of_device == self.device) and (not self.run or of_run == self.run)


def _complete(topic_filter: str, root: str) -> str:
    if topic_filter.startswith((f"{topics.ROOT}/", "$", "#", "+/")) or topic_filter == topics.ROOT:
        return topic_filter
    return f"{root}/{topic_filter}"


def checked_filter(topic_filter: str) -> str:
    """Return a topic filter. Raises SettingsError if MQTT or AWS IoT does not accept it."""
    levels = topic_filter.split("/")
    problem = ""
    if not topic_filter or len(topic_filter.encode()) > _LONGEST_FILTER:
        problem = f"it has {len(topic_filter.encode())} bytes, and AWS IoT takes 1 to {_LONGEST_FILTER}"
    elif len(levels) - 1 > _MOST_SLASHES:
        problem = f"it has {len(levels) - 1} slashes, and AWS IoT takes at most {_MOST_SLASHES}"
    elif any(
        "#" in level and (level != "#" or number < len(levels)) for number, level in enumerate(levels, 1)
    ):
        problem = "# has to be the whole last level"
    elif any("+" in level and level != "+" for level in levels):
        problem = "+ has to be a whole level"
    elif not topic_filter.isprintable():
        problem = "it has characters that cannot be printed"
    if problem:
        message = f"--topic {topic_filter!r} is not a topic filter: {problem}; such as clients/+/status"
        raise SettingsError(message)
    return topic_filter


def json_value(payload: bytes) -> Any:
    """Return the JSON value of a payload; None if it is not JSON."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return None
