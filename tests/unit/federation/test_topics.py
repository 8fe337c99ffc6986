"""The topics, and that recipe, policy and rules spell them as fedgrass/federation/topics.py does."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fedgrass.federation import topics
from fedgrass.federation.errors import MessageError, SettingsError
from fedgrass.federation.topics import Kind
from tests.guards.cloud_files import FLEET, PROJECT, RULE_FILES, sql, template, topic_filter

THING = "${iot:Connection.Thing.ThingName}"
FROM_TRAINER = {Kind.COMPLETE, Kind.STATUS, Kind.HELLO, Kind.HEARTBEAT}
FROM_DEVICE = {*FROM_TRAINER, Kind.PREDICTOR}
MODELS = topics.of_models(FLEET, "x").removesuffix("x") + "*"
TO_DEVICE = {Kind.ANNOUNCE, Kind.HEARTBEAT}
RULES = {
    "declines.yaml": Kind.STATUS,
    "heartbeats.yaml": Kind.HEARTBEAT,
    "hellos.yaml": Kind.HELLO,
    "replies.yaml": Kind.COMPLETE,
    "statuses.yaml": Kind.STATUS,
    "turnarounds.yaml": Kind.COMPLETE,
}


def of_thing(kinds: set[Kind]) -> set[str]:
    return {topics.of_device(FLEET, "THING", kind).replace("THING", THING) for kind in kinds}


def of_devices(fleet: str, kind: Kind) -> str:
    """Return the topic filter that matches one kind of message of every device of a fleet."""
    return topics.of_device(fleet, "THING", kind).replace("THING", "+")


def as_list(one_or_more: Any) -> list[Any]:
    return one_or_more if isinstance(one_or_more, list) else [one_or_more]


def policy_resources(resource: str, action: str) -> set[str]:
    """Return the resources that a policy or role of the template allows for an action, without account."""
    properties = template()["Resources"][resource]["Properties"]
    policies = properties.get("Policies", [properties])
    found: set[str] = set()
    for statement in (
        statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]
    ):
        if action in as_list(statement["Action"]):
            found |= {one["Fn::Sub"] for one in as_list(statement["Resource"])}
    return {arn.rpartition(":topic")[2].replace("${FleetName}", FLEET).replace("${!", "${") for arn in found}


@pytest.mark.parametrize(
    ("action", "kinds", "others", "prefix"),
    [
        ("iot:Publish", FROM_DEVICE, set(), "/"),
        ("iot:Receive", TO_DEVICE, {MODELS}, "/"),
        ("iot:Subscribe", TO_DEVICE, {MODELS}, "filter/"),
    ],
)
def test_a_device_may_use_its_own_topics_and_those_of_models_and_nothing_else(
    action: str, kinds: set[Kind], others: set[str], prefix: str
) -> None:
    allowed = {prefix + topic for topic in of_thing(kinds) | others}
    assert policy_resources("DevicePolicy", action) == allowed


def test_the_cloud_may_publish_its_own_topics_and_nothing_else() -> None:
    both = {
        of_devices(FLEET, Kind.ANNOUNCE).replace("+", "*"),
        topics.of_run(FLEET, "X").replace("X", "*"),
    }
    assert policy_resources("RoundPolicy", "iot:Publish") == {f"/{topic}" for topic in both}
    models = topics.of_models(FLEET, "x").removesuffix("x") + "*"
    assert policy_resources("AveragerRole", "iot:Publish") == {f"/{models}"}
    aliases = topics.of_alias(FLEET, "x", "y").replace("/x/", "/*/").removesuffix("y") + "*"
    assert policy_resources("InitiatorRole", "iot:Publish") == {f"/{aliases}"}


def access_control(operation: str) -> list[str]:
    path = PROJECT / "recipes" / "com.fedgrass.Trainer.yaml"
    recipe: dict[str, Any] = yaml.safe_load(path.read_text())
    policies = recipe["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
    return [
        resource
        for policy in policies["aws.greengrass.ipc.mqttproxy"].values()
        if operation in policy["operations"]
        for resource in policy["resources"]
    ]


@pytest.mark.parametrize(
    ("operation", "kinds"),
    [("aws.greengrass#PublishToIoTCore", FROM_TRAINER), ("aws.greengrass#SubscribeToIoTCore", TO_DEVICE)],
)
def test_the_recipe_lets_the_trainer_use_these_topics_of_any_fleet(operation: str, kinds: set[Kind]) -> None:
    of_any_fleet = {of_devices(FLEET, kind).replace(FLEET, "+") for kind in kinds}
    assert sorted(access_control(operation)) == sorted(of_any_fleet)


def test_every_rule_is_known_here() -> None:
    assert [path.name for path in RULE_FILES] == sorted(RULES)


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.name)
def test_a_rule_selects_one_kind_of_message_of_every_device(path: Path) -> None:
    assert topic_filter(path) == of_devices(FLEET, RULES[path.name])


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.name)
def test_the_device_of_a_rule_is_the_thing_of_the_topic(path: Path) -> None:
    """Rules count a topic's levels from 1: topic(4) has to be the thing, topic(5) the kind."""
    levels = topics.of_device(FLEET, "thing-7", RULES[path.name]).split("/")
    assert (levels[4 - 1], levels[5 - 1]) == ("thing-7", RULES[path.name])
    assert "topic(4) AS device" in sql(path)
    into_tables = {"declines.yaml", "heartbeats.yaml", "turnarounds.yaml"}
    assert ("topic(5) AS kind" in sql(path)) == (path.name not in into_tables)


@pytest.mark.parametrize("kind", Kind)
def test_a_devices_topic_is_read_as_it_was_written(kind: Kind) -> None:
    topic = topics.of_device(FLEET, "thing:1_a-B", kind)
    assert topics.parse_device_topic(topic) == ("thing:1_a-B", kind)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fedgrass",
        "other/garden/clients/t/hello",
        "fedgrass/garden/clients/t/dance",
        "fedgrass/garden/rounds/r",
        "fedgrass/garden/clients/t/hello/more",
    ],
)
def test_any_other_topic_is_refused_by_name(topic: str) -> None:
    with pytest.raises(MessageError, match="is not a device's topic"):
        topics.parse_device_topic(topic)


@pytest.mark.parametrize("thing", ["", "a/b", "+", "#", "a" * 129, "a b", "t\n", "\u00e9"])
def test_a_thing_that_would_change_the_topic_is_refused(thing: str) -> None:
    with pytest.raises(SettingsError, match="cannot name a thing"):
        topics.of_device(FLEET, thing, Kind.HELLO)


@pytest.mark.parametrize("fleet", ["", "Garden", "a/b", "+", "1a", "a" * 33])
def test_a_fleet_that_would_change_the_topic_is_refused(fleet: str) -> None:
    with pytest.raises(SettingsError, match="cannot name a fleet"):
        topics.everything(fleet)


def test_the_longest_topic_is_within_aws_limits() -> None:
    longest = topics.of_device("f" * 32, "t" * 128, Kind.HEARTBEAT)
    assert len(longest.encode()) <= 256
    assert longest.count("/") <= 7
