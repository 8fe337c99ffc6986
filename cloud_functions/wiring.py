"""The only place where AWS clients are built: on the first call of a warm function, never at import."""

import os
import time
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Protocol

import boto3
from botocore.config import Config

from cloud_functions.aws.device_directory import DynamoDevices, IotThingGroups
from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from cloud_functions.aws.messaging import IotPublisher, Queue, SchedulerAlarms
from cloud_functions.aws.powertools_log import PowertoolsLog
from cloud_functions.aws.s3 import S3Bucket
from cloud_functions.device_limits import DeviceLimits
from cloud_functions.services import Services
from fedgrass.federation.aggregation.sharding_plan import Scale

_MEGABYTE = 1024**2
_CONFIG = Config(
    connect_timeout=5,
    read_timeout=60,
    retries={"mode": "standard", "total_max_attempts": 5},
    max_pool_connections=32,
)


class LambdaContext(Protocol):
    """What Lambda hands to a handler beside the event."""

    @property
    def aws_request_id(self) -> str:
        """The id of the request, the same for every delivery of one asynchronous invocation."""

    def get_remaining_time_in_millis(self) -> int:
        """Return how long this call may still take."""


def services(context: LambdaContext, *, averages: bool = True) -> Services:
    """Return the ports on AWS for one call of a function, which its environment names.

    The lease of an aggregation ends when the call that took it must have ended. ``averages`` says whether the
    function may read updates.
    """
    bucket, rounds, devices, publisher, alarms = _ports()
    useless_messages, hellos = _limits()
    return Services(
        fleet=os.environ["FLEET"],
        rounds=rounds,
        devices=devices,
        thing_groups=IotThingGroups(partial(_client, "iot")),
        bucket=bucket,
        publisher=publisher,
        alarms=alarms,
        now=lambda: time.time_ns() // 1_000_000,
        log=_log(),
        averages=averages,
        scale=Scale(
            group=int(os.environ["GROUP_SIZE"]),
            grouped_bytes=int(os.environ["GROUPED_MEGABYTES"]) * _MEGABYTE,
            sharded_bytes=int(os.environ["SHARDED_MEGABYTES"]) * _MEGABYTE,
        ),
        memory_bytes=int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1769")) * _MEGABYTE,
        useless_messages=useless_messages,
        hellos=hellos,
        lease_seconds=context.get_remaining_time_in_millis() / 1000 + 1,
    )


def postpone(record: Mapping[str, Any], seconds: int) -> None:
    """Make a failed message of one of the averager's queues come back after ``seconds``."""
    name = record["eventSourceARN"].rpartition(":")[2]
    urls = [os.environ[f"{queue}_QUEUE_URL"] for queue in ("ALARMS", "JOBS", "REPLIES")]
    url = next(url for url in urls if url.endswith(f"/{name}"))
    _client("sqs").change_message_visibility(
        QueueUrl=url, ReceiptHandle=record["receiptHandle"], VisibilityTimeout=seconds
    )


@cache
def _ports() -> tuple[S3Bucket, DynamoRounds, DynamoDevices, IotPublisher, SchedulerAlarms]:
    environment = os.environ
    queue = Queue(
        environment["ALARMS_QUEUE_URL"],
        environment["ALARMS_QUEUE_ARN"],
        environment["SCHEDULER_ROLE_ARN"],
        environment["JOBS_QUEUE_URL"],
    )
    return (
        S3Bucket(_client("s3"), environment["BUCKET"]),
        DynamoRounds(_client("dynamodb"), environment["ROUNDS_TABLE"], time.sleep),
        DynamoDevices(_client("dynamodb"), environment["DEVICES_TABLE"]),
        IotPublisher(_client("iot-data")),
        SchedulerAlarms(_client("scheduler"), _client("sqs"), environment["SCHEDULE_GROUP"], queue),
    )


@cache
def _limits() -> tuple[DeviceLimits, DeviceLimits]:
    """Return the limits of a device's useless messages and of its hellos, which outlive a call."""
    return DeviceLimits.of_messages(), DeviceLimits.of_hellos()


@cache
def _log() -> PowertoolsLog:
    return PowertoolsLog(os.environ["FLEET"])


@cache
def _client(service: str) -> Any:
    return _session().client(service, config=_CONFIG)


@cache
def _session() -> Any:
    """Return the one session of all clients: each would read anew what botocore knows of AWS."""
    return boto3.Session()
