"""The contract of ``DeviceDirectory``, over every implementation."""

import random
from collections import Counter
from typing import Any

import pytest

from cloud_functions.aws.device_directory import DynamoDevices
from cloud_functions.aws.dynamodb_table import marshal
from fedgrass.federation.errors import LostRace
from fedgrass.federation.ports import DeviceDirectory
from fedgrass.federation.selection import Candidate
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.contracts.conftest import Heartbeat, make_table

NOW = 1_700_000_000_000

Directory = tuple[DeviceDirectory, Heartbeat]


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - repeatable, not a secret


def test_devices_that_were_seen_at_a_moment_or_later_are_returned(
    directory: Directory,
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


def test_a_device_is_returned_as_it_was_seen_last(directory: Directory) -> None:
    devices, heartbeat = directory
    heartbeat("thing", NOW, examples=1)
    heartbeat("thing", NOW + 5, examples=2)
    assert list(devices.seen_since(NOW)) == [Candidate("thing", NOW + 5, frozenset({"digits"}), 2)]


def test_one_device_is_found_by_its_name_however_long_ago_it_was_seen(
    directory: Directory,
) -> None:
    devices, heartbeat = directory
    heartbeat("thing", 5, examples=1)
    heartbeat("thing-2", NOW)
    assert devices.find("thing") == Candidate("thing", 5, frozenset({"digits"}), 1)
    assert devices.find("thing-3") is None


def test_a_device_is_forgotten_as_it_was_seen_and_comes_back_with_a_heartbeat(
    directory: Directory,
) -> None:
    devices, heartbeat = directory
    heartbeat("thing", NOW)
    heartbeat("other", NOW)
    devices.forget("thing", NOW)
    assert devices.find("thing") is None
    assert [candidate.device for candidate in devices.seen_since(0)] == ["other"]
    heartbeat("thing", NOW + 1)
    assert devices.find("thing") == Candidate("thing", NOW + 1, frozenset({"digits"}))


def test_a_device_that_was_seen_since_or_is_not_there_is_not_forgotten(
    directory: Directory,
) -> None:
    devices, heartbeat = directory
    heartbeat("thing", NOW)
    for device, last_seen in (("thing", NOW - 1), ("thing", NOW + 1), ("stranger", NOW)):
        with pytest.raises(LostRace):
            devices.forget(device, last_seen)
    assert devices.find("thing") is not None


def test_an_empty_directory_is_not_an_error(directory: Directory) -> None:
    devices, _heartbeat = directory
    assert list(devices.seen_since(0)) == []


def test_more_devices_than_one_page_of_a_scan_holds_are_all_returned(
    directory: Directory,
) -> None:
    devices, heartbeat = directory
    tasks = ",".join(f"task-{number:040}" for number in range(200))  # about 9 KB: 120 rows pass 1 MB
    for number in range(120):
        heartbeat(f"thing-{number}", NOW, tasks=tasks)
    assert len(list(devices.seen_since(NOW))) == 120
    assert devices.count(NOW) == 120


def test_devices_are_counted_that_were_seen_at_a_moment_or_later(
    directory: Directory,
) -> None:
    devices, heartbeat = directory
    assert devices.count(0) == 0
    for number in range(4):
        heartbeat(f"thing-{number}", NOW - number)
    assert [devices.count(NOW - ago) for ago in (-1, 0, 2, 9)] == [0, 1, 3, 4]


def test_a_fleet_is_read_page_by_page_and_only_as_far_as_needed(
    embedded_cloud: EmbeddedCloud,
) -> None:
    table, client = make_table(embedded_cloud, "device"), embedded_cloud.client("dynamodb")
    tasks = ",".join(f"task-{number:040}" for number in range(200))
    for number in range(240):
        row = {"device": f"thing-{number}", "tasks": tasks, "last_seen": NOW}
        client.put_item(TableName=table, Item=marshal(row))
    requests = 0

    def count(**_: object) -> None:
        nonlocal requests
        requests += 1

    client.meta.events.register("after-call.dynamodb.Scan", count)
    try:
        found = DynamoDevices(client, table).seen_since(NOW)
        assert (next(found).last_seen, requests) == (NOW, 1)
        assert (sum(1 for _ in found), requests) == (239, 3)
    finally:
        client.meta.events.unregister("after-call.dynamodb.Scan", count)


def test_a_sample_has_as_many_live_devices_as_are_wanted_and_each_as_it_was_seen(
    directory: Directory,
) -> None:
    devices, heartbeat = directory
    for number in range(60):
        heartbeat(f"thing-{number}", NOW + number - 30, examples=number)
    live = {candidate.device: candidate for candidate in devices.seen_since(NOW)}
    for wanted in (1, 7, 30):
        found = devices.sample(NOW, wanted, seeded(wanted))
        assert wanted <= len({candidate.device for candidate in found}) == len(found)
        assert all(live[candidate.device] == candidate for candidate in found)


def test_a_sample_of_more_devices_than_there_are_is_all_of_them(directory: Directory) -> None:
    devices, heartbeat = directory
    assert devices.sample(NOW, 5, seeded(0)) == []
    heartbeat("too-early", NOW - 1)
    heartbeat("one", NOW)
    heartbeat("other", NOW)
    assert {candidate.device for candidate in devices.sample(NOW, 5, seeded(0))} == {"one", "other"}


def test_a_sample_continues_until_enough_devices_suit(directory: Directory) -> None:
    devices, heartbeat = directory
    for number in range(60):
        heartbeat(f"thing-{number}", NOW, tasks="rare" if number % 10 == 0 else "digits")

    def suits(candidate: Candidate) -> bool:
        return "rare" in candidate.tasks

    found = devices.sample(NOW, 5, seeded(1), suits)
    assert len(found) >= 5
    assert all(map(suits, found))


def test_the_same_seed_draws_the_same_sample_and_others_draw_others(directory: Directory) -> None:
    devices, heartbeat = directory
    for number in range(60):
        heartbeat(f"thing-{number}", NOW)
    drawn = [{c.device for c in devices.sample(NOW, 5, seeded(seed))} for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len({frozenset(names) for names in drawn}) > 1


def test_every_device_comes_into_some_sample(directory: Directory) -> None:
    """Thing names are often numbered, and a table may return them in order."""
    devices, heartbeat = directory
    for number in range(40):
        heartbeat(f"thing-{number:03}", NOW)
    drawn = Counter(c.device for seed in range(80) for c in devices.sample(NOW, 8, seeded(seed)))
    assert len(drawn) == 40
    assert max(drawn.values()) < 6 * min(drawn.values())


def test_a_sample_reads_in_proportion_to_what_is_wanted(embedded_cloud: EmbeddedCloud) -> None:
    table, client = make_table(embedded_cloud, "device"), embedded_cloud.client("dynamodb")
    rows = [
        {"PutRequest": {"Item": {"device": {"S": f"thing-{number}"}, "last_seen": {"N": str(NOW)}}}}
        for number in range(2000)
    ]
    for start in range(0, 2000, 25):
        client.batch_write_item(RequestItems={table: rows[start : start + 25]})
    read: list[int] = []

    def count(parsed: dict[str, Any], **_: object) -> None:
        read.append(parsed["ScannedCount"])

    client.meta.events.register("after-call.dynamodb.Scan", count)
    try:
        for seed in range(10):
            assert len(DynamoDevices(client, table).sample(NOW, 20, seeded(seed))) >= 20
    finally:
        client.meta.events.unregister("after-call.dynamodb.Scan", count)
    assert sum(read) < 10 * 5 * 20


@pytest.mark.parametrize(
    ("columns", "attributes"),
    [
        ({}, {}),
        (
            {"component_version": {"S": "1.2.0"}, "state": {"S": "idle"}},
            {"version": "1.2.0", "state": "idle"},
        ),
        ({"battery": {"N": "30.5"}, "mains": {"BOOL": False}}, {"battery": 30.5, "mains": False}),
        # The rule's nested object: a map in DynamoDB, JSON text in MiniStack.
        (
            {"attributes": {"M": {"battery": {"N": "3"}, "mains": {"BOOL": True}, "network": {"S": "wifi"}}}},
            {"battery": 3.0, "mains": True, "network": "wifi"},
        ),
        (
            {"attributes": {"S": '{"battery": 3, "mains": true, "network": "wifi"}'}},
            {"battery": 3.0, "mains": True, "network": "wifi"},
        ),
        (
            {"attributes": {"S": '{"state": "x", "n": 1}'}, "state": {"S": "idle"}},
            {"state": "idle", "n": 1.0},
        ),
        ({"attributes": {"S": '{"a": [1], "b": null, "c": {"d": 1}, "e": 1e999, "f": 2'}}, {}),
        ({"attributes": {"S": '{"a": [1], "b": null, "c": {"d": 1}, "f": 2}'}}, {"f": 2.0}),
        ({"attributes": {"S": "[" * 5000}}, {}),
        ({"attributes": {"S": "[1, 2]"}}, {}),
        ({"attributes": {"N": "5"}, "list": {"L": [{"S": "a"}]}, "none": {"NULL": True}}, {}),
    ],
)
def test_other_columns_of_a_heartbeat_are_attributes(
    embedded_cloud: EmbeddedCloud, columns: dict[str, Any], attributes: dict[str, Any]
) -> None:
    table, client = make_table(embedded_cloud, "device"), embedded_cloud.client("dynamodb")
    item = {"device": {"S": "thing"}, "last_seen": {"N": str(NOW)}, **columns}
    client.put_item(TableName=table, Item=item)
    [found] = DynamoDevices(client, table).seen_since(NOW)
    assert found == Candidate("thing", NOW, attributes=attributes)


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
    """The heartbeat rule writes what devices report, of any type."""
    table, client = make_table(embedded_cloud, "device"), embedded_cloud.client("dynamodb")
    seen = {"last_seen": {"N": str(NOW)}}
    client.put_item(TableName=table, Item={"device": {"S": "odd"}, **seen, **attributes})
    client.put_item(TableName=table, Item={"device": {"S": "good"}, **seen, "tasks": {"S": "digits"}})
    found = {candidate.device: candidate.tasks for candidate in DynamoDevices(client, table).seen_since(NOW)}
    assert found == {"good": frozenset({"digits"}), "odd": frozenset()}
