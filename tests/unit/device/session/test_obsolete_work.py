"""Whatever belongs to an older attempt, or to an assignment that is over, changes nothing."""

import random
from pathlib import Path

import pytest

from components.runtime.component_errors import UploadFailed
from components.runtime.event_loop import EventLoop
from components.trainer.session.outbox import Outbox
from components.trainer.worker.worker_protocol import Failure
from fedgrass.federation.messages import Heartbeat, Hello
from tests.fakes.memory_device import Broker, Clock, Device, announcement, verdict


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_an_older_attempt_of_the_round_in_progress_is_ignored(device: Device) -> None:
    device.hears(announcement(1, attempt=2))
    device.hears(announcement(1, attempt=1))
    assert len(device.bench.works) == 1
    assert (device.bench.stops, device.states) == (0, ["accepted"])
    device.finishes()
    assert [message.round_id for message in device.completions] == ["run-a/1/2"]


def test_an_older_attempt_of_an_answered_round_is_ignored(device: Device) -> None:
    device.hears(announcement(1, attempt=2))
    device.finishes()
    device.hears(announcement(1, attempt=1))
    assert len(device.bench.works) == 1
    assert device.states == ["accepted"]
    assert [message.round_id for message in device.completions] == ["run-a/1/2"]


def test_an_older_round_of_a_later_attempt_is_ignored_too(device: Device) -> None:
    device.hears(announcement(2, attempt=1))
    device.hears(announcement(1, attempt=9))
    device.finishes()
    assert [message.round_id for message in device.completions] == ["run-a/2/1"]


def test_an_answer_that_was_posted_before_the_stop_is_dropped(device: Device) -> None:
    """A worker that could not be started posts its failure; by then another attempt may be in progress."""
    device.hears(announcement(1, attempt=1))
    posted = device.bench._answer
    assert posted
    device.hears(announcement(1, attempt=2))
    posted(Failure("the worker cannot be started: out of memory"))
    assert device.states == ["accepted", "accepted"]
    device.finishes()
    assert [message.round_id for message in device.completions] == ["run-a/1/2"]


def test_a_retry_of_the_upload_of_replaced_work_is_not_begun(device: Device) -> None:
    device.bucket.failures = 1
    device.hears(announcement(1))
    device.finishes()  # the upload fails, and is scheduled again
    device.hold_uploads = True
    device.hears(announcement(2))
    device.passes(10)
    assert device.waiting == []
    assert device.bucket.tries == 1


def test_the_failure_of_a_cancelled_upload_is_not_the_next_assignments_trouble(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.hold_uploads = True
    device.hears(announcement(1))
    device.finishes()
    device.hears(announcement(2))

    def cancelled(*_: object) -> None:
        message = "the upload was cancelled"
        raise UploadFailed(message)

    monkeypatch.setattr(device.bucket, "upload", cancelled)
    device.waiting.pop()()
    device.passes(70)
    beat = device.said("heartbeat")[-1]
    assert isinstance(beat, Heartbeat)
    assert (beat.state, beat.work_error) == ("working", "")
    assert device.waiting == []


def test_a_worker_with_new_work_is_not_ended_for_having_been_idle(device: Device) -> None:
    device.hears(announcement(1))
    device.finishes()
    device.hears(verdict(1))
    device.passes(110)
    device.hears(announcement(2, deadline_seconds=1000))
    device.passes(60)
    assert device.bench.stops == 0
    device.finishes()
    assert device.completions[-1].round_id == "run-a/2/1"


def test_a_reply_that_was_sent_again_ends_with_its_verdict(device: Device) -> None:
    device.hears(announcement(deadline_seconds=1000))
    device.finishes()
    device.hears(announcement(deadline_seconds=1000))
    device.hears(verdict())
    sent = len(device.completions)
    device.passes(900)
    assert len(device.completions) == sent


def test_a_reply_whose_deadline_has_passed_is_not_sent_after_a_restart(tmp_path: Path) -> None:
    first = Device(tmp_path)
    first.hears(announcement(deadline_seconds=40))
    first.finishes()
    first.passes(60)
    assert Device(tmp_path).completions == []


def test_training_that_a_restart_interrupted_is_not_resumed_by_the_next_restart(tmp_path: Path) -> None:
    Device(tmp_path).hears(announcement())
    again = Device(tmp_path)
    assert again.context.journal.state.work is None
    assert Device(tmp_path).context.journal.state.work is None


def test_an_evaluation_leaves_what_is_kept_of_another_runs_updates(device: Device) -> None:
    kept = device.context.error_feedback.path("run-b")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"kept")
    device.hears(announcement(work="evaluate"))
    device.finishes()
    assert kept.read_bytes() == b"kept"
    device.hears(announcement(2))
    assert not kept.exists()


def test_the_attempt_in_progress_is_named_for_updates_that_have_to_wait(device: Device) -> None:
    assert device.session.work_in_progress == ""
    device.hears(announcement(3, attempt=2))
    assert device.session.work_in_progress == "run-a/3/2"
    device.finishes()
    assert device.session.work_in_progress == ""


def test_a_message_without_guarantee_does_not_overtake_one_that_waits() -> None:
    clock, broker = Clock(), Broker()
    loop = EventLoop(clock)
    outbox = Outbox(broker, loop, random.Random(7))  # noqa: S311 - jitter
    broker.online = False
    outbox.send("hello", Hello(component_version="1.0.0"))
    broker.online = True
    beat = Heartbeat(state="idle", tasks="digits", examples=0, component_version="1.0.0", uptime_seconds=1.0)
    assert not outbox.offer("heartbeat", beat)
    clock.now += 1
    loop.run_due()
    assert outbox.offer("heartbeat", beat)
    assert [topic for topic, _, _ in broker.sent] == ["hello", "heartbeat"]
