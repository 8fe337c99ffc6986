"""A fleet learned from the tables of a stack in the embedded cloud, which its topic rules wrote."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.federation import messages, topics
from fedgrass.federation.messages import Completion, Heartbeat
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.topics import Kind
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.simulation.fleets import FleetSpec, draw_fleet, load_fleet
from fedgrass.simulation.fleets.fleet_file import write_fleet
from fedgrass.simulation.fleets.fleet_learning import learn_fleet
from tests.e2e.processes import wait_until
from tests.guards.cloud_files import FLEET, RULE_FILES, sql, template

MODEL_BYTES = 4_000_000
DEVICES = ("press-1", "press-2", "press-3", "press-4")
TABLES = {
    "RoundsTableName": "RoundsTable",
    "DevicesTableName": "DevicesTable",
    "TurnaroundsTableName": "TurnaroundsTable",
}
RULES = {"turnarounds": "TurnaroundsTableName", "heartbeats": "DevicesTableName"}


class Stack:
    """The tables of a stack, with the rules that write them."""

    def __init__(self, cloud: EmbeddedCloud) -> None:
        self.cloud, self.dynamodb = cloud, cloud.client("dynamodb")
        self._mark = f"learned{uuid4().hex[:8]}"
        self.outputs: dict[str, str] = {"InitiatorName": "none", "BucketName": "none"}
        for output, resource in TABLES.items():
            properties: dict[str, Any] = template()["Resources"][resource]["Properties"]
            name = f"{self._mark}-{output.lower()}"
            kept = ("BillingMode", "KeySchema", "AttributeDefinitions", "GlobalSecondaryIndexes")
            found = {key: value for key, value in properties.items() if key in kept}
            self.dynamodb.create_table(TableName=name, **found)
            self.outputs[output] = name
        for stem, output in RULES.items():
            put = {
                "roleArn": "arn:aws:iam::000000000000:role/rules",
                "putItem": {"tableName": self.outputs[output]},
            }
            cloud.client("iot").create_topic_rule(
                ruleName=f"{self._mark}_{stem}",
                topicRulePayload={
                    "sql": sql(next(path for path in RULE_FILES if path.stem == stem)),
                    "awsIotSqlVersion": "2016-03-23",
                    "actions": [{"dynamoDBv2": put}],
                },
            )

    def close(self) -> None:
        for stem in RULES:
            self.cloud.client("iot").delete_topic_rule(ruleName=f"{self._mark}_{stem}")

    def operator(self) -> Operator:
        return Operator(self.cloud.client, self.outputs)

    def rows(self, output: str) -> int:
        return int(self.dynamodb.scan(TableName=self.outputs[output], Select="COUNT")["Count"])

    def publish(self, device: str, kind: Kind, message: messages.Message) -> None:
        topic = topics.of_device(FLEET, device, kind)
        self.cloud.client("iot-data").publish(topic=topic, qos=0, payload=messages.encode(message))

    def close_round(self, run: Run, number: int, opened: int) -> None:
        """Write a round that was closed at its deadline, a minute after it was opened."""
        ended = opened + 60_000
        round_ = Round(
            run=run.name,
            number=number,
            attempt=1,
            state=State.CLOSED,
            asked=3,
            needed=3,
            minimum=1,
            opened_at=opened,
            deadline_at=ended,
            closed_at=ended,
            base_sha256="0" * 64,
            base_bytes=MODEL_BYTES,
        )
        rounds = DynamoRounds(self.dynamodb, self.outputs["RoundsTableName"], time.sleep)
        rounds.restore_round(round_)
        states = (Participation.REPLIED, Participation.REPLIED, Participation.ACCEPTED)
        parts = [
            Participant(device=device, state=state, announced_at=opened, accepted=True)
            for device, state in zip(DEVICES, states, strict=False)
        ]
        rounds.restore_participants(round_, parts)

    def reply(self, run: Run, device: str, number: int, train_seconds: float) -> None:
        done = Completion(
            run=run.name,
            round=number,
            attempt=1,
            round_id=messages.round_id(run.name, number, 1),
            announced_at=round(time.time() * 1000) - 40_000,
            bytes=2_000_000,
            checksum="0" * 32,
            examples=50,
            download_seconds=4.0,
            train_seconds=train_seconds,
            upload_seconds=8.0,
        )
        self.publish(device, Kind.COMPLETE, done)


@pytest.fixture
def stack(embedded_cloud: EmbeddedCloud) -> Iterator[Stack]:
    made = Stack(embedded_cloud)
    yield made
    made.close()


def test_turnarounds_and_heartbeats_become_a_fleet_that_can_be_drawn_without_the_stack(
    stack: Stack, tmp_path: Path
) -> None:
    now = round(time.time() * 1000)
    run = Run(
        name="run-1",
        state=RunState.SUCCEEDED,
        settings=parse_settings({"task": "digits", "rounds": 3, "training": {"epochs": 2}}),
        started_at=now - 3_600_000,
        initial_sha256="0" * 64,
        initial_bytes=MODEL_BYTES,
        round=3,
        attempt=1,
    )
    DynamoRounds(stack.dynamodb, stack.outputs["RoundsTableName"], time.sleep).restore_run(run)
    for number in (1, 2, 3):
        stack.close_round(run, number, now - (4 - number) * 600_000)
        stack.reply(run, "press-1", number, train_seconds=2.0)
        stack.reply(run, "press-2", number, train_seconds=10.0)
    for device in DEVICES:
        beat = Heartbeat(
            state="idle",
            tasks="digits",
            examples=50,
            component_version="1.0.0",
            uptime_seconds=60,
            attributes={"region": device[-1]},
        )
        stack.publish(device, Kind.HEARTBEAT, beat)
    wait_until(lambda: stack.rows("TurnaroundsTableName") == 6, "the completions' rows")
    wait_until(lambda: stack.rows("DevicesTableName") == 4, "the heartbeats' rows")

    learned = learn_fleet(stack.operator())

    assert learned.source.startswith(
        "learned from 9 device-rounds, 3 of them without a reply, of 3 of 4 devices; 1 without history"
    )
    fast, slow, dead, new = draw_fleet(learned, 0, 1)
    assert [one.name for one in (fast, slow, dead, new)] == list(DEVICES)
    assert (fast.seconds_per_example, slow.seconds_per_example) == (0.02, 0.1)
    assert (fast.download, fast.upload) == (1_000_000, 250_000)
    assert 2 * slow.latency + slow.fixed_seconds == pytest.approx(40 - 22, abs=15)
    assert [dead.dropout, fast.dropout] == pytest.approx([11 / 15, 2 / 15])
    assert new.seconds_per_example in {0.02, 0.1}
    assert [one.attributes for one in (fast, new)] == [{"region": "1"}, {"region": "4"}]
    write_fleet(learned, tmp_path / "fleet.csv", 1)
    again = draw_fleet(FleetSpec(trace=str(tmp_path / "fleet.csv")), 0, 9)
    assert [one.seconds_per_example for one in again] == [
        one.seconds_per_example for one in (fast, slow, dead, new)
    ]
    write_fleet(learned, tmp_path / "fleet.toml", 1)
    assert {one.upload for one in draw_fleet(load_fleet(tmp_path / "fleet.toml"), 30, 1)} == {250_000}
