"""The contract of ``Alarms``, over every implementation."""

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from cloud_functions.aws import SchedulerAlarms
from fedgrass.federation.ports import Alarms
from fedgrass.federation.rounds import Round
from fedgrass.local.cloud import EmbeddedCloud
from tests.contracts.test_round_store import a_round
from tests.fakes.memory_cloud import MemoryAlarms
from tests.fakes.small_fleet import alarm_of

_numbers = itertools.count(1)
Standing = Callable[[], list[dict[str, Any]]]
FAR = 4_000_000_000_000  # milliseconds: no test waits for it


def far(**changes: Any) -> Round:
    return a_round(deadline_at=FAR, **changes)


@pytest.fixture(params=["memory", "aws"])
def alarms(request: pytest.FixtureRequest) -> tuple[Alarms, Standing]:
    """Alarms, and what returns the messages of those that stand."""
    if request.param == "memory":
        memory = MemoryAlarms()
        return memory, lambda: [alarm_of(of) for of in memory.standing()]
    cloud: EmbeddedCloud = request.getfixturevalue("embedded_cloud")
    scheduler = cloud.client("scheduler")
    group = f"deadlines-{next(_numbers)}"
    scheduler.create_schedule_group(Name=group)

    def standing() -> list[dict[str, Any]]:
        listed = scheduler.list_schedules(GroupName=group)["Schedules"]
        found = [scheduler.get_schedule(GroupName=group, Name=one["Name"]) for one in listed]
        return [json.loads(one["Target"]["Input"]) for one in found]

    role = "arn:aws:iam::000000000000:role/ring"
    return SchedulerAlarms(scheduler, group, "arn:aws:sqs:us-east-1:000000000000:q", role), standing


def test_an_alarm_says_which_round_and_deadline_it_is_for(alarms: tuple[Alarms, Standing]) -> None:
    port, standing = alarms
    port.set(far(number=7, attempt=2))
    overdue = {"run": "run-1", "round": 7, "attempt": 2, "deadline_at": FAR}
    assert standing() == [{"overdue": overdue}]


def test_an_alarm_that_is_set_twice_stands_once(alarms: tuple[Alarms, Standing]) -> None:
    port, standing = alarms
    port.set(far())
    port.set(far())
    assert len(standing()) == 1


def test_rounds_attempts_and_deadlines_have_alarms_of_their_own(alarms: tuple[Alarms, Standing]) -> None:
    port, standing = alarms
    others = [far(), far(number=2), far(attempt=2), far(run="other"), far(run="r" * 64)]
    later = msgspec.structs.replace(far(), deadline_at=FAR + 1)
    for one in [*others, later]:
        port.set(one)
    port.cancel(far())
    assert len(standing()) == 5
    assert alarm_of(far()) not in standing()
    assert alarm_of(later) in standing()


def test_an_alarm_that_is_gone_or_never_was_can_be_cancelled(alarms: tuple[Alarms, Standing]) -> None:
    port, standing = alarms
    port.set(far())
    for _ in range(2):
        port.cancel(far())
    assert standing() == []


def test_an_alarm_rings_in_the_queue_of_replies_not_before_its_time(embedded_cloud: EmbeddedCloud) -> None:
    sqs, scheduler = embedded_cloud.client("sqs"), embedded_cloud.client("scheduler")
    url = sqs.create_queue(QueueName=f"replies-{next(_numbers)}")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    group = f"deadlines-{next(_numbers)}"
    scheduler.create_schedule_group(Name=group)
    port = SchedulerAlarms(scheduler, group, arn, "arn:aws:iam::000000000000:role/ring")
    soon = a_round(deadline_at=time.time_ns() // 1_000_000 + 1500)
    port.set(soon)
    rung = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"]
    assert time.time_ns() // 1_000_000 >= soon.deadline_at
    assert [json.loads(message["Body"]) for message in rung] == [alarm_of(soon)]
