"""The implementations that each contract suite runs over: in memory, and the AWS adapter over MiniStack."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from cloud_functions.aws.device_directory import DynamoDevices
from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from cloud_functions.aws.s3 import S3Bucket
from fedgrass.federation.ports import Bucket, DeviceDirectory, RoundStore
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.simulation.fleets.device_conditions import DeviceConditions
from fedgrass.simulation.virtual_directory import VirtualDirectory
from tests.fakes.memory_cloud import MemoryBucket, MemoryDevices, MemoryRounds

_numbers = itertools.count(1)
_LATER = 1_800_000_000_000  # milliseconds: after all heartbeats


def make_table(cloud: EmbeddedCloud, *keys: str) -> str:
    """Create a separate table for one test, with the text keys ``keys``; return its name."""
    name = f"contract-{next(_numbers)}"
    cloud.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
        KeySchema=[
            {"AttributeName": key, "KeyType": kind}
            for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
        ],
    )
    return name


@pytest.fixture(params=["memory", "aws"])
def where(request: pytest.FixtureRequest) -> str:
    """Which implementation a test runs over."""
    return str(request.param)


@pytest.fixture
def store(where: str, request: pytest.FixtureRequest) -> RoundStore:
    if where == "memory":
        return MemoryRounds()
    cloud: EmbeddedCloud = request.getfixturevalue("embedded_cloud")
    return DynamoRounds(cloud.client("dynamodb"), make_table(cloud, "run", "item"), time.sleep)


@pytest.fixture
def bucket(where: str, request: pytest.FixtureRequest) -> Bucket:
    if where == "memory":
        return MemoryBucket()
    cloud: EmbeddedCloud = request.getfixturevalue("embedded_cloud")
    name = f"contract-{next(_numbers)}"
    cloud.client("s3").create_bucket(Bucket=name)
    return S3Bucket(cloud.client("s3"), name)


Heartbeat = Callable[..., None]


def _virtual_directory() -> tuple[DeviceDirectory, Heartbeat]:
    """A fleet of a simulation, in which a device's heartbeat at a time means that it was on until then."""
    devices = VirtualDirectory(lambda: _LATER, 0)

    def heartbeat(device: str, at: int, tasks: str = "digits", examples: int = 0) -> None:
        conditions = DeviceConditions(name=device, share=0, on=((0, at),))
        devices.add(conditions, frozenset(filter(None, tasks.split(","))), examples)

    return devices, heartbeat


@pytest.fixture(params=["memory", "virtual", "aws"])
def place(request: pytest.FixtureRequest) -> str:
    """Which device directory a test runs over."""
    return str(request.param)


@pytest.fixture
def directory(place: str, request: pytest.FixtureRequest) -> tuple[DeviceDirectory, Heartbeat]:
    """A device directory, and a function that writes a heartbeat to it: (device, at, tasks, examples)."""
    if place == "memory":
        devices = MemoryDevices()
        devices.works = frozenset()  # the heartbeats of this suite are those of an older component
        return devices, devices.heartbeat
    if place == "virtual":
        return _virtual_directory()
    cloud: EmbeddedCloud = request.getfixturevalue("embedded_cloud")
    table, client = make_table(cloud, "device"), cloud.client("dynamodb")

    def heartbeat(device: str, at: int, tasks: str = "digits", examples: int = 0) -> None:
        # As the heartbeat rule's DynamoDBv2 action does.
        item: dict[str, Any] = {
            "device": {"S": device},
            "last_seen": {"N": str(at)},
            "tasks": {"S": tasks},
            "examples": {"N": str(examples)},
        }
        client.put_item(TableName=table, Item=item)

    return DynamoDevices(client, table), heartbeat
