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
from tests.fakes.memory_cloud import MemoryBucket, MemoryDevices, MemoryRounds

_numbers = itertools.count(1)


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


@pytest.fixture
def directory(where: str, request: pytest.FixtureRequest) -> tuple[DeviceDirectory, Heartbeat]:
    """A device directory, and a function that writes a heartbeat to it: (device, at, tasks, examples)."""
    if where == "memory":
        devices = MemoryDevices()
        devices.works = frozenset()  # the heartbeats of this suite are those of an older component
        return devices, devices.heartbeat
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
