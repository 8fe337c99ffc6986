"""Authorization by accessControl, and the topics that a filter matches."""

import pytest

from greengrass_emulator.emulator_errors import InvalidAccessControlError
from greengrass_emulator.recipe.access_control import (
    IOT_CORE,
    LOCAL_TOPICS,
    check_access_control,
    covers,
    is_allowed,
    policy_ids,
    topic_matches,
)

SUBSCRIBE = "aws.greengrass#SubscribeToIoTCore"
PUBLISH = "aws.greengrass#PublishToIoTCore"
POLICIES = {
    IOT_CORE: {
        "Trainer:mqttproxy:1": {"operations": [SUBSCRIBE], "resources": ["plant/+/clients/+/announce"]},
        "Trainer:mqttproxy:2": {
            "operations": [PUBLISH],
            "resources": ["plant/+/clients/+/complete", "log/*"],
        },
        "Trainer:mqttproxy:3": {"operations": ["*"], "resources": ["both/#"]},
    }
}


@pytest.mark.parametrize(
    ("operation", "resource", "allowed"),
    [
        (SUBSCRIBE, "plant/home/clients/device-1/announce", True),
        (SUBSCRIBE, "plant/home/clients/+/announce", True),
        (PUBLISH, "plant/home/clients/device-1/announce", False),
        (PUBLISH, "plant/home/clients/device-1/complete", True),
        (PUBLISH, "plant/home/clients/a/b/complete", False),
        (PUBLISH, "log/anything/below", True),
        (PUBLISH, "both", True),
        (SUBSCRIBE, "both/of/them", True),
        (SUBSCRIBE, "neither", False),
    ],
)
def test_an_operation_is_allowed_only_on_the_resources_beside_it(
    operation: str, resource: str, *, allowed: bool
) -> None:
    assert is_allowed(POLICIES, IOT_CORE, operation, resource) is allowed


def test_a_policy_of_one_service_does_not_apply_to_another() -> None:
    assert not is_allowed(POLICIES, LOCAL_TOPICS, PUBLISH, "both/x")


@pytest.mark.parametrize("access_control", [None, [], "all", {IOT_CORE: None}, {IOT_CORE: {"id": "all"}}])
def test_without_a_proper_policy_nothing_is_allowed(access_control: object) -> None:
    assert not is_allowed(access_control, IOT_CORE, PUBLISH, "x")


@pytest.mark.parametrize(
    ("pattern", "resource", "covered"),
    [
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+", "a/", True),
        ("a/+", "a/#", False),
        ("a/+/#", "a/b", True),
        ("a/#", "a", True),
        ("a/#", "ab", False),
        ("#", "anything/at/all", True),
        ("*", "anything/at/all", True),
        ("a/*/z", "a/b/c/z", True),
        ("a/x*", "a/xyz/1", True),
        ("a.b", "aXb", False),
        ("a/{iot:thingName}", "a/device-1", False),
    ],
)
def test_wildcards_of_a_resource(pattern: str, resource: str, *, covered: bool) -> None:
    assert covers(pattern, resource) is covered


@pytest.mark.parametrize(
    ("topic_filter", "topic", "matches"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("+/+", "a/b/c", False),
        ("#", "$aws/things", False),
        ("$aws/+", "$aws/things", True),
        ("a/*", "a/b", False),
    ],
)
def test_a_topic_filter_matches_by_the_rules_of_mqtt(topic_filter: str, topic: str, *, matches: bool) -> None:
    assert topic_matches(topic_filter, topic) is matches


@pytest.mark.parametrize(
    ("access_control", "complaint"),
    [
        ([], "accessControl must be a map"),
        ({IOT_CORE: []}, "mqttproxy must be a map"),
        ({IOT_CORE: {"id": {"resources": ["*"]}}}, "id operations must be a list of strings, not None"),
        (
            {IOT_CORE: {"id": {"operations": ["*"], "resources": "*"}}},
            "id resources must be a list of strings",
        ),
    ],
)
def test_a_misshapen_access_control_is_refused_by_place(access_control: object, complaint: str) -> None:
    with pytest.raises(InvalidAccessControlError, match=complaint):
        check_access_control(access_control)


def test_policy_ids_are_found_over_all_services() -> None:
    more = {**POLICIES, LOCAL_TOPICS: {"Trainer:pubsub:1": {"operations": ["*"], "resources": ["*"]}}}

    assert policy_ids(more) == [
        "Trainer:mqttproxy:1",
        "Trainer:mqttproxy:2",
        "Trainer:mqttproxy:3",
        "Trainer:pubsub:1",
    ]
