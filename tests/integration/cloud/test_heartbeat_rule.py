"""The heartbeat rule on MiniStack: ``where`` of a run finds the attributes that devices publish."""

import json
import time

import pytest

from cloud_functions.aws.device_directory import DynamoDevices
from fedgrass.federation import messages, topics
from fedgrass.federation.messages import Heartbeat
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.attribute_conditions import parse_expression
from fedgrass.federation.topics import Kind
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.contracts.conftest import make_table
from tests.guards.cloud_files import FLEET, RULE_FILES, sql, template

HEARTBEATS = next(path for path in RULE_FILES if path.stem == "heartbeats")


@pytest.fixture
def devices(embedded_cloud: EmbeddedCloud) -> DynamoDevices:
    """The devices table with its topic rule."""
    table = make_table(embedded_cloud, "device")
    put = {"roleArn": "arn:aws:iam::000000000000:role/rules", "putItem": {"tableName": table}}
    embedded_cloud.client("iot").create_topic_rule(
        ruleName=table.replace("-", "_"),
        topicRulePayload={
            "sql": sql(HEARTBEATS),
            "awsIotSqlVersion": "2016-03-23",
            "actions": [{"dynamoDBv2": put}],
        },
    )
    return DynamoDevices(embedded_cloud.client("dynamodb"), table)


def said(cloud: EmbeddedCloud, devices: DynamoDevices, payload: bytes) -> Candidate:
    """Publish a heartbeat and return the resulting device."""
    topic = topics.of_device(FLEET, "thing-1", Kind.HEARTBEAT)
    cloud.client("iot-data").publish(topic=topic, qos=0, payload=payload)
    deadline = time.monotonic() + 20
    while not (found := list(devices.seen_since(0))):
        assert time.monotonic() < deadline, "the heartbeat did not reach the table within 20 s"
        time.sleep(0.05)
    return found[0]


@pytest.mark.parametrize(("speaks", "found"), [("2,1", {1, 2}), (None, {1})], ids=["says", "old"])
def test_the_versions_of_messages_that_a_device_speaks_reach_the_candidates(
    embedded_cloud: EmbeddedCloud, devices: DynamoDevices, speaks: str | None, found: set[int]
) -> None:
    """A component from before version negotiation publishes no versions, and counts as version 1."""
    heartbeat = {
        "version": 1,
        "state": "idle",
        "tasks": "digits",
        "examples": 40,
        "component_version": "0.1.0",
        "uptime_seconds": 2.5,
    } | ({} if speaks is None else {"speaks": speaks})
    assert said(embedded_cloud, devices, json.dumps(heartbeat).encode()).speaks == found


@pytest.mark.parametrize(
    ("works", "found"), [("train,message", {"train", "message"}), (None, set())], ids=["says", "old"]
)
def test_the_kinds_of_work_that_a_device_knows_reach_the_candidates(
    embedded_cloud: EmbeddedCloud, devices: DynamoDevices, works: str | None, found: set[str]
) -> None:
    heartbeat = {
        "version": 1,
        "state": "idle",
        "tasks": "digits",
        "examples": 40,
        "component_version": "0.1.0",
        "uptime_seconds": 2.5,
    } | ({} if works is None else {"works": works})
    candidate = said(embedded_cloud, devices, json.dumps(heartbeat).encode())
    assert candidate.works == found
    assert "works" not in candidate.attributes


def test_a_row_expires_a_number_of_seconds_after_the_last_heartbeat(
    embedded_cloud: EmbeddedCloud, devices: DynamoDevices
) -> None:
    old = {"version": 1, "state": "idle", "tasks": "digits", "examples": 1, "component_version": "1"}
    found = said(embedded_cloud, devices, json.dumps(old | {"uptime_seconds": 1}).encode())
    forget_seconds = template()["Parameters"]["ForgetSeconds"]["Default"]
    expires_at = found.attributes["expires_at"]
    assert isinstance(expires_at, float)
    # The rule has timestamp() three times, and an engine may evaluate each separately.
    assert 0 <= expires_at - (found.last_seen // 1000 + forget_seconds) <= 1
    assert template()["Resources"]["DevicesTable"]["Properties"]["TimeToLiveSpecification"]["Enabled"]


def test_attributes_and_metrics_of_a_heartbeat_reach_the_candidates(
    embedded_cloud: EmbeddedCloud, devices: DynamoDevices
) -> None:
    heartbeat = Heartbeat(
        state="idle",
        tasks="digits,noise",
        examples=40,
        component_version="1.10.0",
        uptime_seconds=2.5,
        attributes={"battery": 57.5, "mains": False, "network": "wifi", "site": "M\u00fcnchen"},
        metrics="accuracy,loss",
    )
    found = said(embedded_cloud, devices, messages.encode(heartbeat))
    assert (found.device, found.examples) == ("thing-1", 40)
    assert found.tasks == {"digits", "noise"}
    assert found.metrics == {"accuracy", "loss"}
    reported = {"battery": 57.5, "mains": False, "network": "wifi", "site": "M\u00fcnchen"}
    assert {name: found.attributes[name] for name in reported} == reported
    where = 'battery > 50 and not mains and site == "M\u00fcnchen" and version >= "1.9" and state == "idle"'
    assert parse_expression(where).holds(found.attributes)


def test_a_heartbeat_from_before_attributes_is_a_candidate_too(
    embedded_cloud: EmbeddedCloud, devices: DynamoDevices
) -> None:
    old = {"version": 1, "state": "idle", "tasks": "digits", "examples": 1, "component_version": "1"}
    found = said(embedded_cloud, devices, json.dumps(old | {"uptime_seconds": 1}).encode())
    assert found.tasks == {"digits"}
    assert found.metrics == frozenset()
    assert "attributes" not in found.attributes
    assert found.attributes["version"] == "1"
