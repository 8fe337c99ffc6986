"""A batch from SQS: messages are processed one by one, then each run is advanced once."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from cloud_functions.aws.sqs_batch import each_record
from fedgrass.federation.errors import NotYet
from tests.fakes.memory_log import MemoryLog
from tests.guards.cloud_files import template


class Worker:
    """Processes messages ``<run>`` and ``<run>!``, of which the second fail; advances runs, except some."""

    def __init__(self, stuck: Sequence[str] = (), error: Exception | None = None) -> None:
        self.done: list[str] = []
        self._journal = MemoryLog()
        self.log = self._journal.lines
        self._stuck = stuck
        self._error = error or NotYet("others are at it")

    def take(self, body: str) -> str | None:
        self.done.append(f"took {body}")
        if body.endswith("!"):
            raise ValueError(body)
        return body or None

    def advance(self, run: str) -> None:
        self.done.append(f"advanced {run}")
        if run in self._stuck:
            raise self._error

    def batch(self, *bodies: str) -> list[str]:
        """Return the numbers of the failed messages."""
        records = [{"messageId": str(number), "body": body} for number, body in enumerate(bodies)]
        answer = each_record({"Records": records}, self._journal, self.take, self.advance)
        return [failed["itemIdentifier"] for failed in answer["batchItemFailures"]]


def test_a_run_is_advanced_once_when_all_messages_of_a_batch_were_taken() -> None:
    worker = Worker()
    assert worker.batch("a", "b", "a", "") == []
    assert worker.done == ["took a", "took b", "took a", "took ", "advanced a", "advanced b"]


def test_a_message_that_fails_is_retried_and_delays_no_other() -> None:
    worker = Worker()
    assert worker.batch("a!", "a") == ["0"]
    assert worker.done == ["took a!", "took a", "advanced a"]


@pytest.mark.parametrize("error", [NotYet("soon"), RuntimeError("broken")])
def test_one_message_of_a_run_that_could_not_be_advanced_is_retried_and_other_runs_are_advanced(
    error: Exception,
) -> None:
    worker = Worker(["a"], error)
    assert worker.batch("a", "a", "b") == ["1"]
    assert worker.done[-1] == "advanced b"
    assert str(error) in worker.log[-1]


def postponed(receive_count: int | None, error: Exception | None = None) -> tuple[list[int], MemoryLog]:
    """Fail a message that was received ``times`` times; return the seconds until its next delivery."""
    journal, seconds = MemoryLog(), list[int]()

    def postpone(_record: Mapping[str, Any], delay: int) -> None:
        seconds.append(delay)
        if error:
            raise error

    attributes = {} if receive_count is None else {"ApproximateReceiveCount": str(receive_count)}
    record = {"messageId": "1", "body": "a!", "attributes": attributes}
    answer = each_record({"Records": [record]}, journal, Worker().take, None, postpone)
    assert answer == {"batchItemFailures": [{"itemIdentifier": "1"}]}
    return seconds, journal


@pytest.mark.parametrize(
    ("receive_count", "seconds"), [(None, 5), (1, 5), (2, 10), (5, 80), (8, 640), (9, 900), (100_000, 900)]
)
def test_a_message_that_fails_is_retried_after_twice_as_long_each_time(
    receive_count: int | None, seconds: int
) -> None:
    assert postponed(receive_count)[0] == [seconds]


def test_a_message_that_cannot_be_postponed_fails_all_the_same() -> None:
    _, journal = postponed(1, RuntimeError("SQS is not there"))
    assert any("is retried late: RuntimeError: SQS is not there" in line for line in journal.lines)
    assert journal.lines[-1].startswith("failed: ValueError: a!")


def test_ten_tries_outlast_the_longest_average() -> None:
    longest = max(template()["Parameters"]["AveragerTimeoutSeconds"]["AllowedValues"])
    tries = min(queue["Properties"]["RedrivePolicy"]["maxReceiveCount"] for queue in averager_queues())
    assert sum(postponed(count)[0][0] for count in range(1, tries)) > longest


def test_lambda_takes_the_queues_for_each_time_out() -> None:
    # AWS refuses a queue with a shorter visibility time-out than its function's, and advises six times that.
    allowed = template()["Parameters"]["AveragerTimeoutSeconds"]["AllowedValues"]
    visibility = template()["Mappings"]["Visibility"]
    assert sorted(int(seconds) for seconds in visibility) == allowed
    for seconds, choices in visibility.items():
        assert choices["SixTimes"] == 6 * int(seconds)
        assert int(seconds) < choices["Once"] <= 1.5 * int(seconds)
    timed = {"Fn::FindInMap": ["Visibility", {"Ref": "AveragerTimeoutSeconds"}, {"Ref": "QueueVisibility"}]}
    assert [queue["Properties"]["VisibilityTimeout"] for queue in averager_queues()] == [timed] * 3


def averager_queues() -> list[dict[str, Any]]:
    return [template()["Resources"][name] for name in ("Replies", "Jobs", "Alarms")]
