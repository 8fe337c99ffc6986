"""A repair over the AWS adapters: items are deleted from a table in MiniStack, and the run is completed."""

import time
from typing import Any, cast

import pytest

from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from cloud_functions.aws.dynamodb_table import marshal, unmarshal
from cloud_functions.aws.s3 import S3Bucket
from cloud_functions.recovery import repair
from fedgrass.federation import object_keys
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.weights import encode
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.contracts.conftest import make_table
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet


class Table:
    """The items of a table, read and deleted without fedgrass's code."""

    def __init__(self, cloud: EmbeddedCloud) -> None:
        self.name = make_table(cloud, "run", "item")
        self.client = cloud.client("dynamodb")

    def items(self) -> dict[str, dict[str, Any]]:
        """Return all items, with numbers as numbers: 0 and 0.0 are equal in DynamoDB."""
        found = self.client.scan(TableName=self.name, ConsistentRead=True)["Items"]
        return {f"{item['run']['S']} {item['item']['S']}": unmarshal(item) for item in found}

    def delete(self, *words: str) -> None:
        """Delete the items whose key has one of ``words``."""
        for key, item in self.items().items():
            if any(word in key for word in words):
                wanted = marshal({"run": item["run"], "item": item["item"]})
                self.client.delete_item(TableName=self.name, Key=wanted)


@pytest.fixture
def table(embedded_cloud: EmbeddedCloud) -> Table:
    return Table(embedded_cloud)


@pytest.fixture
def fleet(embedded_cloud: EmbeddedCloud, table: Table) -> SmallFleet:
    """A run after three of its five rounds."""
    fleet = SmallFleet(devices=2, rounds=5, schedule="by_hand")
    bucket = f"repair-{table.name}"
    embedded_cloud.client("s3").create_bucket(Bucket=bucket)
    fleet.rounds = cast(Any, DynamoRounds(table.client, table.name, time.sleep))
    fleet.bucket = cast(Any, S3Bucket(embedded_cloud.client("s3"), bucket))
    fleet.cloud = fleet._worker()
    fleet.bucket.write(object_keys.model(RUN, 0), encode(INITIAL))
    fleet.start()
    close_rounds(fleet, until=3)
    return fleet


def close_rounds(fleet: SmallFleet, until: int) -> None:
    while fleet.run().round < until or fleet.newest().state is State.OPEN:
        if fleet.newest().state is not State.OPEN:
            fleet.act("next")
        opened = fleet.newest()
        fleet.pass_time(1.25)
        for device in fleet.names:
            fleet.reply(device, opened, value=opened.number)


def test_items_deleted_after_three_of_five_rounds_come_back_and_the_run_has_its_five(
    table: Table, fleet: SmallFleet
) -> None:
    before = table.items()
    table.delete(" ")
    assert table.items() == {}
    repair.act(fleet.cloud, {"action": "repair", "run": RUN, "by": "ben"})
    for key in (f"{RUN} run", f"#runs {RUN}"):
        before[key]["state"] = "PAUSED"
    run, items = f"{RUN} run", table.items()
    *kept, (action, by) = [(entry.action, entry.by) for entry in fleet.run().history]
    assert (kept, action, by) == ([("start", ""), ("next", ""), ("next", "")], "repair", "ben")
    assert items[run]["actions"] == before[run]["actions"] + 1
    for name in ("actions", "history"):
        items[run][name] = before[run][name]
    assert items == before
    fleet.act("resume")
    close_rounds(fleet, until=5)
    assert (fleet.run().state, fleet.run().round) == (RunState.SUCCEEDED, 5)


def test_a_living_run_that_the_list_of_the_living_lost_is_put_back(table: Table, fleet: SmallFleet) -> None:
    table.delete("#living")
    assert fleet.rounds.living() == []
    answer = repair.act(fleet.cloud, {"action": "repair", "run": RUN})
    assert answer["lines"] == ["wrote the run's entry in the list of runs: RUNNING"]
    assert fleet.rounds.living() == [RUN]


def test_only_the_items_that_were_deleted_are_written(table: Table, fleet: SmallFleet) -> None:
    before = table.items()
    table.delete("#runs", "#living", "round/000003", "participant/000002/001/thing-1")
    assert len(table.items()) == len(before) - 4
    answer = repair.act(fleet.cloud, {"action": "repair", "run": RUN})
    assert table.items() == before
    assert answer["lines"] == [
        "wrote round 2 attempt 1: 1 participant",
        "wrote round 3 attempt 1: CLOSED",
        "wrote the run's entry in the list of runs: RUNNING",
    ]
    close_rounds(fleet, until=5)
    assert fleet.rounds.runs() == {RUN: RunState.SUCCEEDED}
