"""Pages of DynamoDB's tables as the dashboard reads them: tables in memory and the embedded cloud's agree.

The units do not: the embedded cloud reports half a unit for every page, whatever its size. Those of the
tables in memory are compared with what AWS documents.
"""

from typing import Any

import pytest

from cloud_functions.aws.dynamodb_table import marshal
from fedgrass.console.dashboard.fleet_reads import FleetReads, ReadBudget
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.local.in_memory.memory_tables import MemoryTables
from tests.fakes.memory_stack import MemoryStack

OUTPUTS = {"RoundsTableName": "page-rounds", "DevicesTableName": "page-devices"}
KEYS = {"page-rounds": ("run", "item"), "page-devices": ("device",)}
SIZES = (1, 100, 5000, 20_000, 3)


@pytest.fixture(params=["in memory", "embedded cloud"])
def client(request: pytest.FixtureRequest) -> Any:
    if request.param == "in memory":
        return MemoryTables(KEYS)
    cloud: EmbeddedCloud = request.getfixturevalue("embedded_cloud")
    dynamodb: Any = cloud.client("dynamodb")
    present = dynamodb.list_tables()["TableNames"]
    for name, keys in KEYS.items():
        if name in present:
            dynamodb.delete_table(TableName=name)
        dynamodb.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
            KeySchema=[
                {"AttributeName": key, "KeyType": kind}
                for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
            ],
        )
    return dynamodb


@pytest.fixture
def budget() -> ReadBudget:
    return ReadBudget(lambda: 0.0)


@pytest.fixture
def reads(client: Any, budget: ReadBudget) -> FleetReads:
    for number, size in enumerate(SIZES):
        row = {"run": "#runs", "item": f"run-{number}", "state": "RUNNING", "filler": "x" * size}
        client.put_item(TableName="page-rounds", Item=marshal(row))
    for number in range(45):
        device: dict[str, object] = {"device": f"d{number}", "last_seen": number, "tasks": "digits"}
        client.put_item(TableName="page-devices", Item=marshal(device))
    return FleetReads(client, OUTPUTS, budget)


def test_the_rows_of_a_partition_come_in_order_with_the_units_of_their_size(
    client: Any, reads: FleetReads, budget: ReadBudget
) -> None:
    page = reads.run_states(None)
    assert [name for name, _ in page.items] == [f"run-{number}" for number in range(len(SIZES))]
    assert page.next is None
    if isinstance(client, MemoryTables):
        assert budget.units == 3.5  # 25.3 KB: seven halves
    assert budget.units


def test_a_table_is_read_in_pages_until_its_end(reads: FleetReads, budget: ReadBudget) -> None:
    pages, start = [], None
    while True:
        page = reads.devices(start)
        pages.append(len(page.items))
        start = page.next
        if start is None:
            break
    assert sum(pages) == 45
    assert pages[0] == 20
    assert budget.units == 0.5 * len(pages)


def test_a_row_that_is_missing_takes_half_a_unit(reads: FleetReads, budget: ReadBudget) -> None:
    assert reads.run("nothing") is None
    assert reads.device("nothing") is None
    assert budget.units == 1.0


def test_the_rounds_of_a_run_come_backwards(client: Any, reads: FleetReads) -> None:
    stack = MemoryStack()
    for number in range(1, 31):
        stack.put_round("apples", number)
    for item in stack.tables.query(TableName="rounds", ExpressionAttributeValues=marshal({":run": "apples"}))[
        "Items"
    ]:
        client.put_item(TableName="page-rounds", Item=item)
    first = reads.rounds("apples", None)
    assert [round_.number for round_ in first.items] == list(range(30, 10, -1))
    second = reads.rounds("apples", first.next)
    assert [round_.number for round_ in second.items] == list(range(10, 0, -1))


def test_pages_grow_until_they_take_two_units(budget: ReadBudget) -> None:
    client = MemoryTables(KEYS)
    reads = FleetReads(client, OUTPUTS, budget)  # type: ignore[arg-type]
    for number in range(200):
        row = {"device": f"d{number:03}", "last_seen": 1, "note": "x" * 480}
        client.put_item(TableName="page-devices", Item=marshal(row))
    start, most = None, 0.0
    while True:
        before = budget.units
        page = reads.devices(start)
        most = max(most, budget.units - before)
        start = page.next
        if start is None:
            break
    assert 1.5 <= most <= 2.5
