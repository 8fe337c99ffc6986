"""What the topic rules write of a device's work is found by the table's index, in the embedded cloud."""

import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from components.trainer.session.outbox import status
from fedgrass.console.devices.device_history import INDEX, WorkRecord, recent_work, with_fleet
from fedgrass.console.stack import StackError
from fedgrass.federation import messages, topics
from fedgrass.federation.messages import Announcement, Completion
from fedgrass.federation.topics import Kind
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.e2e.processes import wait_until
from tests.guards.cloud_files import FLEET, RULE_FILES, sql, template

ANNOUNCEMENT = Announcement(
    run="run-1",
    round=1,
    attempt=1,
    work="train",
    task="digits",
    announced_at=1_700_000_000_000,
    deadline_seconds=60,
    bucket="b",
    model_key="k",
    model_sha256="0" * 64,
    model_bytes=1,
)


class Table:
    """A turnarounds table as in the template, with the rules that write it."""

    def __init__(self, cloud: EmbeddedCloud, *, indexed: bool = True) -> None:
        self.cloud, self.client = cloud, cloud.client("dynamodb")
        self.name = f"turnarounds-{uuid4().hex[:8]}"
        self.properties: dict[str, Any] = template()["Resources"]["TurnaroundsTable"]["Properties"]
        wanted = ["BillingMode", "KeySchema", "AttributeDefinitions"]
        found = {name: self.properties[name] for name in wanted}
        if indexed:
            found["GlobalSecondaryIndexes"] = self.properties["GlobalSecondaryIndexes"]
        else:
            keys = {key["AttributeName"] for key in found["KeySchema"]}
            found["AttributeDefinitions"] = [
                one for one in found["AttributeDefinitions"] if one["AttributeName"] in keys
            ]
        self.client.create_table(TableName=self.name, **found)
        for stem in ("turnarounds", "declines"):
            put = {"roleArn": "arn:aws:iam::000000000000:role/rules", "putItem": {"tableName": self.name}}
            cloud.client("iot").create_topic_rule(
                ruleName=f"{self.name.replace('-', '_')}_{stem}",
                topicRulePayload={
                    "sql": sql(next(path for path in RULE_FILES if path.stem == stem)),
                    "awsIotSqlVersion": "2016-03-23",
                    "actions": [{"dynamoDBv2": put}],
                },
            )

    def add_index(self) -> None:
        """Update the table as CloudFormation does."""
        self.client.update_table(
            TableName=self.name,
            AttributeDefinitions=self.properties["AttributeDefinitions"],
            GlobalSecondaryIndexUpdates=[{"Create": self.properties["GlobalSecondaryIndexes"][0]}],
        )

    def publish(self, device: str, kind: Kind, payload: bytes) -> None:
        topic = topics.of_device(FLEET, device, kind)
        self.cloud.client("iot-data").publish(topic=topic, qos=0, payload=payload)

    def complete(self, device: str, number: int, train_seconds: float = 2.0) -> None:
        done = Completion(
            run="run-1",
            round=number,
            attempt=1,
            round_id=messages.round_id("run-1", number, 1),
            announced_at=round(time.time() * 1000) - 5_000,
            bytes=1_000,
            checksum="0" * 32,
            examples=40,
            train_seconds=train_seconds,
        )
        self.publish(device, Kind.COMPLETE, messages.encode(done))

    def say(self, device: str, state: Any, number: int, reason: str = "") -> None:
        """Publish a status as the trainer does."""
        fields = {name: getattr(ANNOUNCEMENT, name) for name in ANNOUNCEMENT.__struct_fields__}
        announced = Announcement(**{**fields, "round": number})
        self.publish(device, Kind.STATUS, messages.encode(status(announced, state, reason)))

    def rows(self) -> int:
        return int(self.client.scan(TableName=self.name, Select="COUNT")["Count"])

    def holds(self, count: int) -> None:
        wait_until(lambda: self.rows() == count, f"{count} rows")

    def work(self, device: str, limit: int = 10) -> list[WorkRecord]:
        return recent_work(self.client, self.name, device, limit)


@pytest.fixture(scope="module")
def table(embedded_cloud: EmbeddedCloud) -> Callable[..., Table]:
    return lambda **options: Table(embedded_cloud, **options)


def test_completions_declines_and_failures_of_a_device_are_found_the_latest_first(
    table: Callable[..., Table],
) -> None:
    made = table()
    made.complete("press-1", 1, train_seconds=9.0)
    made.complete("press-2", 1)
    made.complete("press-3", 1)
    made.holds(3)
    made.say("press-1", "accepted", 2)
    made.say("press-1", "declined", 2, "battery at 10 %")
    made.say("press-1", "progress", 2)
    made.holds(4)
    made.say("press-1", "failed", 3, "the disk is full")
    made.holds(5)
    failed, declined, completed = made.work("press-1")
    assert (failed.outcome, failed.round, failed.reason) == ("failed", 3, "the disk is full")
    assert (declined.outcome, declined.round, declined.reason) == ("declined", 2, "battery at 10 %")
    assert (completed.outcome, completed.update_bytes) == ("completed", 1_000)
    compared = with_fleet(made.client, made.name, completed)
    assert compared.times is not None
    assert compared.fleet is not None
    assert (compared.times.train_seconds, compared.fleet.train_seconds, compared.fleet_devices) == (9, 2, 3)
    assert [record.round for record in made.work("press-1", limit=2)] == [3, 2]
    assert made.work("press-9") == []


def test_a_completion_replaces_the_failure_of_the_same_attempt(table: Callable[..., Table]) -> None:
    made = table()
    made.say("press-1", "failed", 1, "the disk is full")
    made.holds(1)
    made.complete("press-1", 1)
    wait_until(lambda: made.work("press-1")[0].outcome == "completed", "the completion's row")
    assert (made.rows(), len(made.work("press-1"))) == (1, 1)


def test_a_status_without_the_id_of_a_round_leaves_no_row(table: Callable[..., Table]) -> None:
    made = table()
    old = {"version": 1, "run": "run-1", "round": 1, "attempt": 1, "state": "declined", "reason": "busy"}
    for status_ in (old, {**old, "round_id": "no round"}, {**old, "round_id": 7}):
        made.publish("press-1", Kind.STATUS, json.dumps(status_).encode())
    made.say("press-1", "declined", 2, "busy")
    made.holds(1)
    assert [record.round for record in made.work("press-1")] == [2]


def test_an_older_table_gets_the_index_over_its_rows(table: Callable[..., Table]) -> None:
    made = table(indexed=False)
    made.complete("press-1", 1)
    made.holds(1)
    with pytest.raises(StackError, match=f"no index {INDEX} to read: update the stack by `fedgrass deploy"):
        made.work("press-1")
    made.add_index()
    wait_until(lambda: index_is_built(made), "the index")
    assert [record.round for record in made.work("press-1")] == [1]


def index_is_built(made: Table) -> bool:
    indexes = made.client.describe_table(TableName=made.name)["Table"].get("GlobalSecondaryIndexes", [])
    return [one.get("IndexStatus", "ACTIVE") for one in indexes] == ["ACTIVE"]
