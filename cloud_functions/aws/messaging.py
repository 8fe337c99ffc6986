"""Messages on AWS: IoT Core's publish, alarms in EventBridge Scheduler, reminders and jobs in SQS."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from botocore.exceptions import ClientError

from fedgrass.federation import messages
from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.messages.alarms import Alarm, Reminder

if TYPE_CHECKING:
    from mypy_boto3_iot_data import IoTDataPlaneClient
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
    from mypy_boto3_sqs import SQSClient

_PARALLEL_PUBLISHES = 16


class IotPublisher:
    """The ``Publisher`` through IoT Core's HTTPS interface, several requests at a time."""

    def __init__(self, client: "IoTDataPlaneClient") -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(_PARALLEL_PUBLISHES, thread_name_prefix="publish")

    def publish(self, pairs: Iterable[tuple[str, bytes]]) -> None:
        """Publish (topic, payload) pairs at QoS 1; see ``Publisher``."""
        for _ in self._pool.map(self._publish, pairs):
            pass

    def _publish(self, pair: tuple[str, bytes]) -> None:
        topic, payload = pair
        self._client.publish(topic=topic, qos=1, payload=payload)


class Queue(NamedTuple):
    """The averager's queues of alarms and of jobs, and the role with which the Scheduler sends alarms."""

    url: str
    arn: str
    scheduler_role_arn: str
    jobs_url: str


class SchedulerAlarms:
    """The ``Alarms`` as one-off schedules and delayed messages to a queue that the averager reads.

    A message in a queue is delivered until it is processed, whereas an asynchronous invocation of a function
    is tried three times. The queue is separate from that of the replies, which devices can fill.
    """

    def __init__(
        self, scheduler: "EventBridgeSchedulerClient", sqs: "SQSClient", group: str, queue: Queue
    ) -> None:
        self._scheduler = scheduler
        self._sqs = sqs
        self._group = group
        self._queue = queue

    def set(self, alarm: Alarm) -> None:
        """Set an alarm; see ``Alarms``."""
        # at() takes whole seconds: round up, since an alarm that fires early has no effect.
        at = datetime.fromtimestamp(-(-alarm.at // 1000), tz=UTC)
        body = msgspec.json.encode({"alarm": alarm}).decode()
        try:
            self._scheduler.create_schedule(
                Name=_alarm_name(alarm),
                GroupName=self._group,
                ScheduleExpression=f"at({at:%Y-%m-%dT%H:%M:%S})",
                FlexibleTimeWindow={"Mode": "OFF"},
                ActionAfterCompletion="DELETE",
                Target={"Arn": self._queue.arn, "RoleArn": self._queue.scheduler_role_arn, "Input": body},
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConflictException":
                raise

    def cancel(self, alarm: Alarm) -> None:
        """Delete an alarm if it still exists."""
        try:
            self._scheduler.delete_schedule(Name=_alarm_name(alarm), GroupName=self._group)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise

    def hand_over(self, job: Job) -> None:
        """Hand a job to another averager; see ``Alarms``."""
        body = msgspec.json.encode({"job": job}).decode()
        self._sqs.send_message(QueueUrl=self._queue.jobs_url, MessageBody=body)

    def remind(self, reminder: Reminder, seconds: int) -> None:
        """Send a reminder that arrives after ``seconds``; see ``Alarms``."""
        body = msgspec.json.encode({"reminder": reminder}).decode()
        self._sqs.send_message(QueueUrl=self._queue.url, MessageBody=body, DelaySeconds=seconds)


def _alarm_name(alarm: Alarm) -> str:
    """Return the name of an alarm's schedule: a hash, since names have at most 64 characters."""
    identity = f"{messages.round_id(alarm.run, alarm.round, alarm.attempt)}/{alarm.at}"
    return f"{alarm.kind}-{hashlib.sha256(identity.encode()).hexdigest()[:40]}"
