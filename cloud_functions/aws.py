"""The other ports on AWS: the bucket, IoT Core's publish and EventBridge Scheduler."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from botocore.exceptions import ClientError

from fedgrass.federation import messages
from fedgrass.federation.alarms import Alarm, Reminder
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.weights import Layout, header_size, read_layout

_PARALLEL_PUBLISHES = 16
# What S3 says to a conditional write of an object that is another by then, or that was removed.
_CHANGED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"})
_GUESSED_HEADER = 64 * 1024  # bytes: enough for the header of most models, so that one request does


class S3Bucket:
    """The ``Bucket`` in S3."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self.name = name

    def read(self, key: str, largest: int) -> bytes:
        """Return an object of at most ``largest`` bytes; see ``Bucket``."""
        return self.read_version(key, largest)[0]

    def read_version(self, key: str, largest: int) -> tuple[bytes, str]:
        """Return an object and its ETag; see ``Bucket``."""
        answer = self._get(key)
        if answer["ContentLength"] > largest:
            answer["Body"].close()
            message = f"object {key} has {answer['ContentLength']} bytes; {largest} is the most it may have"
            raise UpdateRefused(message)
        return answer["Body"].read(), answer["ETag"]

    def read_layout(self, key: str) -> Layout:
        """Return the layout of a weights file from its first bytes; see ``Bucket``."""
        answer = self._get(key, Range=f"bytes=0-{_GUESSED_HEADER - 1}")
        size = int(answer["ContentRange"].rpartition("/")[2])
        head: bytes = answer["Body"].read()
        needed = header_size(head, size)
        if needed > len(head):
            head = self._get(key, Range=f"bytes=0-{needed - 1}")["Body"].read()
        return read_layout(head, size)

    def write(self, key: str, data: bytes) -> None:
        """Write an object, over whatever is there."""
        self._client.put_object(Bucket=self.name, Key=key, Body=data)

    def write_once(self, key: str, data: bytes) -> bytes:
        """Write an object unless there is one; return the bytes that are there now."""
        if self.write_over(key, data, None):
            return data
        stored: bytes = self._get(key)["Body"].read()
        return stored

    def write_over(self, key: str, data: bytes, version: str | None) -> bool:
        """Write an object if it still has that ETag; see ``Bucket``."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            self._client.put_object(Bucket=self.name, Key=key, Body=data, **condition)
        except ClientError as error:
            if error.response["Error"]["Code"] not in _CHANGED:
                raise
            return False
        return True

    def _get(self, key: str, **options: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._client.get_object(Bucket=self.name, Key=key, **options)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in {"NoSuchKey", "404"}:
                raise KeyError(key) from error
            if code == "InvalidRange":  # of an empty object
                message = f"object {key} is empty"
                raise UpdateRefused(message) from error
            raise
        return answer


class IotPublisher:
    """The ``Publisher`` through IoT Core's HTTPS interface, several requests at a time."""

    def __init__(self, client: Any) -> None:
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
    """The queue that the averager reads, and the role with which the Scheduler sends to it."""

    url: str
    arn: str
    scheduler_role_arn: str


class SchedulerAlarms:
    """The ``Alarms`` as one-off schedules and delayed messages, to the queue that the averager reads.

    A queue and no function of its own: an alarm is then as sure to be heard as a reply is (it comes back
    until somebody has dealt with it, and ends in the dead-letter queue otherwise).
    """

    def __init__(self, scheduler: Any, sqs: Any, group: str, queue: Queue) -> None:
        self._scheduler = scheduler
        self._sqs = sqs
        self._group = group
        self._queue = queue

    def set(self, alarm: Alarm) -> None:
        """Set an alarm; see ``Alarms``."""
        # at() has whole seconds: round up, since an early alarm would find nothing to do.
        at = datetime.fromtimestamp(-(-alarm.at // 1000), tz=UTC)
        body = msgspec.json.encode({"alarm": alarm}).decode()
        target = {"Arn": self._queue.arn, "RoleArn": self._queue.scheduler_role_arn, "Input": body}
        try:
            self._scheduler.create_schedule(
                Name=_alarm_name(alarm),
                GroupName=self._group,
                ScheduleExpression=f"at({at:%Y-%m-%dT%H:%M:%S})",
                FlexibleTimeWindow={"Mode": "OFF"},
                ActionAfterCompletion="DELETE",
                Target=target,
            )
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConflictException":
                raise

    def cancel(self, alarm: Alarm) -> None:
        """Remove an alarm if it is still there."""
        try:
            self._scheduler.delete_schedule(Name=_alarm_name(alarm), GroupName=self._group)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise

    def remind(self, reminder: Reminder, seconds: int) -> None:
        """Send a reminder that arrives after ``seconds``; see ``Alarms``."""
        body = msgspec.json.encode({"reminder": reminder}).decode()
        self._sqs.send_message(QueueUrl=self._queue.url, MessageBody=body, DelaySeconds=seconds)


def _alarm_name(alarm: Alarm) -> str:
    """Return a name of at most 64 characters, which the run's own name could exceed."""
    word = f"{messages.round_id(alarm.run, alarm.round, alarm.attempt)}/{alarm.at}"
    return f"{alarm.kind}-{hashlib.sha256(word.encode()).hexdigest()[:40]}"
