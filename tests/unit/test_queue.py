"""A batch from SQS: each message by itself, and what it makes possible once for all of them."""

from collections.abc import Sequence

import pytest

from cloud_functions.queue import each_record
from fedgrass.federation.errors import NotYet
from tests.fakes.memory_log import MemoryLog


class Worker:
    """Takes messages ``<run>`` or ``<run>!``, of which the second fail; drives all runs but those named."""

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

    def drive(self, run: str) -> None:
        self.done.append(f"drove {run}")
        if run in self._stuck:
            raise self._error

    def batch(self, *bodies: str) -> list[str]:
        """Return the numbers of the messages that come back."""
        records = [{"messageId": str(number), "body": body} for number, body in enumerate(bodies)]
        answer = each_record({"Records": records}, self._journal, self.take, self.drive)
        return [failed["itemIdentifier"] for failed in answer["batchItemFailures"]]


def test_a_run_is_driven_once_when_all_messages_of_a_batch_were_taken() -> None:
    worker = Worker()
    assert worker.batch("a", "b", "a", "") == []
    assert worker.done == ["took a", "took b", "took a", "took ", "drove a", "drove b"]


def test_a_message_that_cannot_be_taken_comes_back_and_holds_up_no_other() -> None:
    worker = Worker()
    assert worker.batch("a!", "a") == ["0"]
    assert worker.done == ["took a!", "took a", "drove a"]


@pytest.mark.parametrize("error", [NotYet("soon"), RuntimeError("broken")])
def test_one_message_of_a_run_that_could_not_be_driven_comes_back_and_other_runs_are_driven(
    error: Exception,
) -> None:
    worker = Worker(["a"], error)
    assert worker.batch("a", "a", "b") == ["1"]
    assert worker.done[-1] == "drove b"
    assert str(error) in worker.log[-1]
