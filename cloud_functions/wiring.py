"""The composition root: the only place where AWS clients are built, on the first call of a function.

Nothing is built at import. Clients, log and device limits are kept while the function is warm.
"""

import os
import time
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

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

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient
    from mypy_boto3_sqs import SQSClient

_MEGABYTE = 1024**2
_CONFIG = Config(
    connect_timeout=5,
    read_timeout=60,
    retries={"mode": "standard", "total_max_attempts": 5},
    max_pool_connections=32,
)


class LambdaContext(Protocol):
    """The context that Lambda passes to a handler along with the event."""

    @property
    def aws_request_id(self) -> str:
        """The id of the request, which is the same for all deliveries of an asynchronous invocation."""

    def get_remaining_time_in_millis(self) -> int:
        """Return how long this invocation may still take, in milliseconds."""


def services(context: LambdaContext, *, can_average: bool = True) -> Services:
    """Return the services on AWS for one invocation of a function, as its environment configures them.

    Args:
        context: of this invocation; leases expire when its time is up.
        can_average: whether the function may read updates and drafts, and so average.
    """
    bucket, rounds, devices, publisher, alarms = _ports()
    useless_messages, hellos, log_requests = _limits()
    return Services(
        fleet=os.environ["FLEET"],
        rounds=rounds,
        devices=devices,
        thing_groups=IotThingGroups(_iot),
        bucket=bucket,
        publisher=publisher,
        alarms=alarms,
        now=lambda: time.time_ns() // 1_000_000,
        log=_log(),
        can_average=can_average,
        scale=Scale(
            group=int(os.environ["GROUP_SIZE"]),
            grouped_bytes=int(os.environ["GROUPED_MEGABYTES"]) * _MEGABYTE,
            sharded_bytes=int(os.environ["SHARDED_MEGABYTES"]) * _MEGABYTE,
        ),
        memory_bytes=int(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1769")) * _MEGABYTE,
        useless_messages=useless_messages,
        hellos=hellos,
        log_requests=log_requests,
        lease_seconds=context.get_remaining_time_in_millis() / 1000 + 1,
    )


def postpone(record: Mapping[str, Any], seconds: int) -> None:
    """Have a failed message of one of the averager's queues delivered again after ``seconds``."""
    name = record["eventSourceARN"].rpartition(":")[2]
    urls = [os.environ[f"{queue}_QUEUE_URL"] for queue in ("ALARMS", "JOBS", "REPLIES")]
    url = next(url for url in urls if url.endswith(f"/{name}"))
    _sqs().change_message_visibility(
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
    session = _session()
    dynamodb = session.client("dynamodb", config=_CONFIG)
    scheduler = session.client("scheduler", config=_CONFIG)
    return (
        S3Bucket(session.client("s3", config=_CONFIG), environment["BUCKET"]),
        DynamoRounds(dynamodb, environment["ROUNDS_TABLE"], time.sleep),
        DynamoDevices(dynamodb, environment["DEVICES_TABLE"]),
        IotPublisher(session.client("iot-data", config=_CONFIG)),
        SchedulerAlarms(scheduler, _sqs(), environment["SCHEDULE_GROUP"], queue),
    )


@cache
def _limits() -> tuple[DeviceLimits, DeviceLimits, DeviceLimits]:
    """Return the limits on useless messages, hellos and requests for log lines, kept across invocations."""
    return DeviceLimits.of_messages(), DeviceLimits.of_hellos(), DeviceLimits.of_log_requests()


@cache
def _log() -> PowertoolsLog:
    return PowertoolsLog(os.environ["FLEET"])


@cache
def _sqs() -> "SQSClient":
    return _session().client("sqs", config=_CONFIG)


@cache
def _iot() -> "IoTClient":
    return _session().client("iot", config=_CONFIG)


@cache
def _session() -> boto3.Session:
    """Return the session that all clients share; each session loads botocore's data about AWS again."""
    return boto3.Session()
