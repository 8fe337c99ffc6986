"""The contract of ``Alarms``, over the implementation in memory and the one on AWS."""

import itertools
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from cloud_functions.aws.messaging import Queue, SchedulerAlarms
from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.messages.alarms import LONGEST_REMINDER, Alarm, Reminder
from fedgrass.federation.ports import Alarms
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.fakes.memory_cloud import MemoryAlarms
from tests.fakes.small_fleet import message_of

_numbers = itertools.count(1)
FAR = 4_000_000_000_000  # milliseconds: beyond the time of any test
ROLE = "arn:aws:iam::000000000000:role/ring"


class AwsAlarms(NamedTuple):
    """Alarms on AWS, with a separate schedule group and separate queues for each test."""

    port: SchedulerAlarms
    group: str
    queue_url: str
    jobs_url: str


def aws_alarms(cloud: EmbeddedCloud) -> AwsAlarms:
    scheduler, sqs = cloud.client("scheduler"), cloud.client("sqs")
    group, name = f"alarms-{next(_numbers)}", f"replies-{next(_numbers)}"
    scheduler.create_schedule_group(Name=group)
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    jobs_url = sqs.create_queue(QueueName=f"{name}-jobs")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    port = SchedulerAlarms(scheduler, sqs, group, Queue(url, arn, ROLE, jobs_url))
    return AwsAlarms(port, group, url, jobs_url)


Standing = Callable[[], list[dict[str, Any]]]


def far(**changes: Any) -> Alarm:
    made = Alarm(run="run-1", round=1, attempt=1, at=FAR, kind="deadline")
    return msgspec.structs.replace(made, **changes)


@pytest.fixture(params=["memory", "aws"])
def alarms(request: pytest.FixtureRequest) -> tuple[Alarms, Standing]:
    """Alarms, and a function that returns the messages of those that are set."""
    if request.param == "memory":
        memory = MemoryAlarms()
        return memory, lambda: [message_of(alarm) for alarm in memory.standing()]
    cloud: EmbeddedCloud = request.getfixturevalue("embedded_cloud")
    made = aws_alarms(cloud)
    scheduler = cloud.client("scheduler")

    def standing() -> list[dict[str, Any]]:
        listed = scheduler.list_schedules(GroupName=made.group)["Schedules"]
        found = [scheduler.get_schedule(GroupName=made.group, Name=one["Name"]) for one in listed]
        return [json.loads(one["Target"]["Input"]) for one in found]

    return made.port, standing


def test_an_alarm_carries_its_purpose(alarms: tuple[Alarms, Standing]) -> None:
    port, standing = alarms
    port.set(far(round=7, attempt=2, kind="open"))
    said = {"run": "run-1", "round": 7, "attempt": 2, "at": FAR, "kind": "open"}
    assert standing() == [{"alarm": said}]


def test_an_alarm_that_is_set_twice_exists_once(alarms: tuple[Alarms, Standing]) -> None:
    port, standing = alarms
    port.set(far())
    port.set(far())
    assert len(standing()) == 1


def test_rounds_attempts_times_and_kinds_have_separate_alarms(alarms: tuple[Alarms, Standing]) -> None:
    port, standing = alarms
    others = [far(), far(round=2), far(attempt=2), far(run="other"), far(run="r" * 64), far(kind="open")]
    later = far(at=FAR + 1)
    for one in [*others, later]:
        port.set(one)
    port.cancel(far())
    assert len(standing()) == 6
    assert message_of(far()) not in standing()
    assert message_of(later) in standing()
    assert message_of(far(kind="open")) in standing()


def test_an_alarm_that_is_gone_or_never_was_can_be_cancelled(alarms: tuple[Alarms, Standing]) -> None:
    port, standing = alarms
    port.set(far())
    for _ in range(2):
        port.cancel(far())
    assert standing() == []


def test_an_alarm_that_was_cancelled_can_be_set_again(alarms: tuple[Alarms, Standing]) -> None:
    port, standing = alarms
    for _ in range(2):
        port.set(far())
        port.cancel(far())
    port.set(far())
    assert standing() == [message_of(far())]


@pytest.mark.parametrize("kind", ["deadline", "open"])
def test_an_alarm_rings_in_the_queue_of_replies_not_before_its_time(
    embedded_cloud: EmbeddedCloud, kind: str
) -> None:
    made = aws_alarms(embedded_cloud)
    soon = far(at=time.time_ns() // 1_000_000 + 1500, kind=kind)
    made.port.set(soon)
    rung = received(embedded_cloud, made.queue_url)
    assert time.time_ns() // 1_000_000 >= soon.at
    assert rung == [message_of(soon)]


def test_a_reminder_comes_in_the_queue_of_replies_not_before_its_time(embedded_cloud: EmbeddedCloud) -> None:
    made = aws_alarms(embedded_cloud)
    reminder = Reminder(run="run-1", round=2, attempt=3, turn=1, batch=40, at=1_700_000_060_000)
    sent = time.monotonic()
    made.port.remind(reminder, 2)
    assert received(embedded_cloud, made.queue_url) == [message_of(reminder)]
    assert time.monotonic() - sent >= 1.5  # whole seconds on the emulator's clock


def test_the_longest_reminder_is_taken_and_stays_under_way(embedded_cloud: EmbeddedCloud) -> None:
    made = aws_alarms(embedded_cloud)
    made.port.remind(Reminder(run="run-1"), LONGEST_REMINDER)
    delayed = embedded_cloud.client("sqs").get_queue_attributes(
        QueueUrl=made.queue_url, AttributeNames=["ApproximateNumberOfMessagesDelayed"]
    )
    assert delayed["Attributes"] == {"ApproximateNumberOfMessagesDelayed": "1"}


# ---------------------------------------------------------------- reminders and jobs
class Sent(NamedTuple):
    """Alarms, and functions that return the next message of a reminder and of a job."""

    port: Alarms
    next_reminder: Callable[[], dict[str, Any]]
    next_job: Callable[[], dict[str, Any]]


@pytest.fixture(params=["memory", "aws"])
def sent(request: pytest.FixtureRequest) -> Sent:
    if request.param == "memory":
        memory = MemoryAlarms()
        return Sent(
            memory,
            lambda: message_of(memory.reminders.pop(0)[0]),
            lambda: {"job": msgspec.to_builtins(memory.jobs.pop(0))},
        )
    cloud: EmbeddedCloud = request.getfixturevalue("embedded_cloud")
    made = aws_alarms(cloud)
    return Sent(
        made.port, lambda: receive_one(cloud, made.queue_url), lambda: receive_one(cloud, made.jobs_url)
    )


REMINDER = Reminder(run="run-1", round=2, attempt=3, turn=1, batch=40, at=1_700_000_060_000)
JOB = Job(run="run-1", round=2, attempt=3, kind="shard", number=7)


def test_a_reminder_arrives_as_a_message_of_the_alarms(sent: Sent) -> None:
    sent.port.remind(REMINDER, 0)
    expected = {"run": "run-1", "round": 2, "attempt": 3, "turn": 1, "batch": 40, "at": 1_700_000_060_000}
    assert sent.next_reminder() == {"reminder": expected}


def test_a_job_arrives_as_a_message_of_the_jobs(sent: Sent) -> None:
    sent.port.hand_over(JOB)
    expected = {"run": "run-1", "round": 2, "attempt": 3, "kind": "shard", "number": 7}
    assert sent.next_job() == {"job": expected}


def test_reminders_and_jobs_that_are_sent_twice_arrive_twice(sent: Sent) -> None:
    for _ in range(2):
        sent.port.remind(REMINDER, 0)
        sent.port.hand_over(JOB)
    assert [sent.next_reminder() for _ in range(2)] == [message_of(REMINDER)] * 2
    assert [sent.next_job() for _ in range(2)] == [{"job": msgspec.to_builtins(JOB)}] * 2


def test_reminders_and_jobs_set_no_alarm(alarms: tuple[Alarms, Standing]) -> None:
    port, standing = alarms
    port.remind(REMINDER, 0)
    port.hand_over(JOB)
    assert standing() == []


def received(cloud: EmbeddedCloud, url: str) -> list[dict[str, Any]]:
    answer = cloud.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=20)
    return [json.loads(message["Body"]) for message in answer.get("Messages", [])]


def receive_one(cloud: EmbeddedCloud, url: str) -> dict[str, Any]:
    """Return the next message of a queue and delete it."""
    sqs = cloud.client("sqs")
    answer = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20, MaxNumberOfMessages=1)
    (message,) = answer["Messages"]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    body: dict[str, Any] = json.loads(message["Body"])
    return body
