"""Authorization of components on IPC: the `accessControl` of their configuration.

A policy allows operations on resources, per service. In a resource `*` stands for any characters, `+` for one
level of a topic and `#` for the remaining levels. Anything that no policy allows is refused. Recipe variables
in a resource are not replaced: Nucleus Lite 2.6.0 and the classic nucleus in its default configuration take
them literally.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import cast

from greengrass_emulator.emulator_errors import InvalidAccessControlError

IOT_CORE = "aws.greengrass.ipc.mqttproxy"
LOCAL_TOPICS = "aws.greengrass.ipc.pubsub"
CLI = "aws.greengrass.Cli"
SECRETS = "aws.greengrass.SecretManager"


def is_allowed(access_control: object, service: str, operation: str, resource: str) -> bool:
    """Return whether a policy of `service` allows `operation`, `aws.greengrass#...`, on `resource`."""
    services = cast("Mapping[str, object]", access_control) if isinstance(access_control, Mapping) else {}
    policies = services.get(service)
    if not isinstance(policies, Mapping):
        return False
    return any(
        (operation in operations or "*" in operations)
        and any(covers(pattern, resource) for pattern in resources)
        for operations, resources in map(_operations_and_resources, policies.values())
    )


def _operations_and_resources(policy: object) -> tuple[list[str], list[str]]:
    if not isinstance(policy, Mapping):
        return [], []
    return _texts(policy.get("operations")), _texts(policy.get("resources"))


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def covers(pattern: str, resource: str) -> bool:
    """Return whether a policy's resource `pattern` covers `resource`, a topic or a topic filter.

    A `+` of a policy does not cover a `#` of a filter: the filter would reach more topics than the policy
    names.
    """
    return _as_expression(pattern).fullmatch(resource) is not None


@functools.lru_cache(maxsize=256)
def _as_expression(pattern: str) -> re.Pattern[str]:
    levels = pattern.split("/")
    expression = ""
    for position, level in enumerate(levels):
        separator = "/" if position else ""
        if level == "#" and position == len(levels) - 1:
            # `a/#` covers `a` too, as in MQTT.
            expression += f"(?:{separator}.*)?" if position else ".*"
        elif level == "+":
            expression += separator + "[^/#]*"
        else:
            expression += separator + re.escape(level).replace(r"\*", ".*")
    return re.compile(expression, re.DOTALL)


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Return whether an MQTT topic filter matches `topic`.

    Topics that start with `$` need a literal first level.
    """
    if topic.startswith("$") and topic_filter[:1] in {"+", "#"}:
        return False
    filter_levels, levels = topic_filter.split("/"), topic.split("/")
    for position, level in enumerate(filter_levels):
        if level == "#":
            return True
        if position >= len(levels) or level not in {"+", levels[position]}:
            return False
    return len(filter_levels) == len(levels)


def filter_covers(wide: str, narrow: str) -> bool:
    """Return whether the filter `wide` matches every topic that the filter `narrow` matches."""
    wide_levels, narrow_levels = wide.split("/"), narrow.split("/")
    for position, level in enumerate(wide_levels):
        if level == "#":
            return True
        if position >= len(narrow_levels) or narrow_levels[position] == "#":
            return False
        if level not in {"+", narrow_levels[position]}:
            return False
    return len(wide_levels) == len(narrow_levels)


def check_access_control(access_control: object) -> None:
    """Raise InvalidAccessControlError unless this maps services to policies to operations and resources."""
    for service, policy_id, policy in _policies(access_control):
        for key in ("operations", "resources"):
            values = policy.get(key)
            if (
                not isinstance(values, list)
                or not values
                or not all(isinstance(value, str) for value in values)
            ):
                where = f"accessControl {service} {policy_id} {key}"
                message = f"{where} must be a list of strings, not {values!r}"
                raise InvalidAccessControlError(message)


def policy_ids(access_control: object) -> list[str]:
    """Return the ids of all policies, which must be unique on the device."""
    return [policy_id for _, policy_id, _ in _policies(access_control)]


def _policies(access_control: object) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    for service, policies in _map("accessControl", access_control).items():
        for policy_id, policy in _map(f"accessControl {service}", policies).items():
            yield service, policy_id, _map(f"accessControl {service} {policy_id}", policy)


def _map(where: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        message = f"{where} must be a map, not {value!r}"
        raise InvalidAccessControlError(message)
    return value
