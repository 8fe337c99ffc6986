"""The contract of ``DeviceDirectory``, over every implementation."""

from typing import Any

import pytest

from cloud_functions.aws import DynamoDevices
from fedgrass.federation.ports import DeviceDirectory
from fedgrass.federation.selection import Candidate
from fedgrass.local.cloud import EmbeddedCloud
from tests.contracts.conftest import Heartbeat, make_table

NOW = 1_700_000_000_000


def test_devices_that_were_seen_at_a_moment_or_later_are_returned(
    directory: tuple[DeviceDirectory, Heartbeat],
) -> None:
    devices, heartbeat = directory
    heartbeat("too-early", NOW - 1)
    heartbeat("just", NOW, tasks="digits,noise", examples=7)
    heartbeat("later", NOW + 1, tasks="")
    found = {candidate.device: candidate for candidate in devices.seen_since(NOW)}
    assert found == {
        "just": Candidate("just", NOW, frozenset({"digits", "noise"}), 7),
        "later": Candidate("later", NOW + 1),
    }


def test_a_device_is_returned_as_it_was_seen_last(directory: tuple[DeviceDirectory, Heartbeat]) -> None:
    devices, heartbeat = directory
    heartbeat("thing", NOW, examples=1)
    heartbeat("thing", NOW + 5, examples=2)
    assert devices.seen_since(NOW) == [Candidate("thing", NOW + 5, frozenset({"digits"}), 2)]


def test_no_device_is_no_error(directory: tuple[DeviceDirectory, Heartbeat]) -> None:
    devices, _heartbeat = directory
    assert devices.seen_since(0) == []


def test_more_devices_than_one_page_of_a_scan_holds_are_all_returned(
    directory: tuple[DeviceDirectory, Heartbeat],
) -> None:
    devices, heartbeat = directory
    tasks = ",".join(f"task-{number:040}" for number in range(200))  # about 9 KB: 120 rows pass 1 MB
    for number in range(120):
        heartbeat(f"thing-{number}", NOW, tasks=tasks)
    assert len(devices.seen_since(NOW)) == 120


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"tasks": {"N": "5"}, "examples": {"S": "many"}},
        {"tasks": {"NULL": True}, "examples": {"NULL": True}},
        {"tasks": {"S": ",,"}, "examples": {"N": "9.9e100"}},
    ],
)
def test_a_heartbeat_of_odd_types_spoils_no_other_device(
    embedded_cloud: EmbeddedCloud, attributes: dict[str, Any]
) -> None:
    """The heartbeat rule writes what devices say, of whatever type."""
    table, client = make_table(embedded_cloud, "device"), embedded_cloud.client("dynamodb")
    seen = {"last_seen": {"N": str(NOW)}}
    client.put_item(TableName=table, Item={"device": {"S": "odd"}, **seen, **attributes})
    client.put_item(TableName=table, Item={"device": {"S": "good"}, **seen, "tasks": {"S": "digits"}})
    found = {candidate.device: candidate.tasks for candidate in DynamoDevices(client, table).seen_since(NOW)}
    assert found == {"good": frozenset({"digits"}), "odd": frozenset()}
