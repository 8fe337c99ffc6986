"""One assignment after the other: announcement, training, upload, completion, verdict."""

import logging
from pathlib import Path

import pytest

from components.trainer.worker.worker_protocol import Failure, Progress
from fedgrass.federation import messages
from fedgrass.federation.messages import message_types
from tests.fakes.memory_device import TOPICS, Device, announcement, configure, verdict


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_device_says_hello_once_it_hears(device: Device) -> None:
    assert device.broker.subscribed == [f"{TOPICS}/announce", f"{TOPICS}/heartbeat"]
    assert [topic.rsplit("/")[-1] for topic, _, _ in device.broker.sent] == ["hello", "heartbeat"]
    assert device.ready == 1


def test_a_work_is_accepted_trained_uploaded_and_completed(device: Device) -> None:
    device.hears(announcement())
    assert device.states == ["accepted"]
    assert device.completions == []
    device.finishes()
    (completion,) = device.completions
    assert completion.round_id == "run-a/1/1"
    assert completion.announced_at == 1_700_000_000_000
    assert (completion.bytes, completion.examples) == (8, 40)
    assert device.bucket.objects == {"fleet-bucket/updates/press-1/run-a/1-1.safetensors": b"x" * 8}


def test_a_device_says_what_it_speaks_and_replies_in_the_version_of_the_announcement(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one release later: a component that speaks two versions, and a cloud that has the older one."""
    (_, said, _) = device.broker.sent[-1]
    assert messages.decode(said, messages.Heartbeat).speaks == "1"
    monkeypatch.setattr(message_types, "SPOKEN", (2, 1))
    for version, run in ((2, "run-a"), (1, "run-b")):
        device.hears(announcement(run=run, version=version))
        device.finishes()
    assert [message.version for message in device.completions] == [2, 1]


def test_completion_waits_for_the_upload(device: Device) -> None:
    device.hold_uploads = True
    device.hears(announcement())
    device.finishes()
    assert device.completions == []
    device.passes(2)
    device.waiting.pop()()
    device.settle()
    assert [message.upload_seconds for message in device.completions] == [2.0]


def test_an_evaluation_uploads_nothing(device: Device) -> None:
    device.hears(announcement(work="evaluate"))
    device.finishes()
    assert [message.bytes for message in device.completions] == [0]
    assert device.bucket.tries == 0


def test_a_duplicate_announcement_is_dropped(device: Device) -> None:
    device.hears(announcement())
    device.hears(announcement())
    assert len(device.bench.works) == 1
    assert device.states == ["accepted"]


def test_an_announcement_of_finished_work_gets_the_completion_again(device: Device) -> None:
    device.hears(announcement())
    device.finishes()
    device.hears(verdict())
    device.hears(announcement())
    assert len(device.bench.works) == 1
    assert len(device.completions) == 2
    assert device.completions[0] == device.completions[1]


def test_an_announcement_of_failed_work_gets_the_failure_again(device: Device) -> None:
    device.hears(announcement())
    device.bench.says(Failure("no such file"))
    device.hears(announcement())
    assert device.states == ["accepted", "failed", "failed"]


def test_an_unknown_task_is_declined_with_the_tasks_there_are(device: Device) -> None:
    device.hears(announcement(task="faces"))
    assert device.states == ["declined"]
    assert device.statuses[0].reason == "this device has the tasks: digits, noise"


def test_a_busy_device_declines_the_work_of_another_run(device: Device) -> None:
    device.hears(announcement())
    device.hears(announcement(run="run-b"))
    assert device.statuses[1].state == "declined"
    assert device.statuses[1].reason == "busy with run-a/1/1"
    assert len(device.bench.works) == 1


@pytest.mark.parametrize(("number", "attempt"), [(1, 2), (2, 1)])
def test_a_later_attempt_or_round_takes_the_place_of_the_work(
    device: Device, number: int, attempt: int
) -> None:
    device.hears(announcement(1, 1))
    device.hears(announcement(number, attempt))
    assert device.bench.stops == 1
    device.finishes()
    assert [message.round_id for message in device.completions] == [f"run-a/{number}/{attempt}"]


def test_an_earlier_round_of_the_run_is_dropped(device: Device) -> None:
    device.hears(announcement(2))
    device.finishes()
    device.hears(announcement(1))
    assert len(device.bench.works) == 1
    assert device.states == ["accepted"]


def test_an_upload_of_replaced_work_counts_for_nothing(device: Device) -> None:
    device.hold_uploads = True
    device.hears(announcement(1))
    device.finishes()
    device.hears(announcement(2))
    device.waiting.pop()()
    device.settle()
    assert device.completions == []
    assert device.bucket.objects == {}


@pytest.mark.parametrize("payload", [b"no json", b"{}", b'{"version": 7}', b"[" * 5000])
def test_a_malformed_announcement_is_one_line_in_the_log(
    device: Device, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        device.hears(payload)
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()
    assert device.bench.works == []


def test_a_failure_of_the_worker_is_told_with_its_reason(device: Device) -> None:
    device.hears(announcement())
    device.bench.says(Failure("the worker was killed (SIGKILL)"))
    assert device.statuses[-1].state == "failed"
    assert device.statuses[-1].reason == "the worker was killed (SIGKILL)"
    assert device.completions == []


def test_the_deadline_ends_the_worker_and_the_work(device: Device) -> None:
    device.hears(announcement(deadline_seconds=30))
    device.passes(29)
    assert device.states == ["accepted"]
    device.passes(1)
    assert device.bench.stops == 1
    assert device.statuses[-1].state == "failed"
    assert device.statuses[-1].reason == "deadline: the work was still training after 30 s"
    device.finishes()
    assert device.completions == []


def test_a_repeated_announcement_brings_the_deadline_forward(device: Device) -> None:
    device.hears(announcement(deadline_seconds=90))
    device.hears(announcement(deadline_seconds=10))
    device.passes(11)
    assert device.states == ["accepted", "failed"]


def test_a_failed_upload_is_tried_again(device: Device) -> None:
    device.bucket.failures = 4
    device.hears(announcement())
    device.finishes()
    device.passes(35)
    assert device.bucket.tries == 5
    assert len(device.completions) >= 1
    assert device.states == ["accepted"]


def test_an_upload_that_keeps_failing_is_told_with_its_reason(device: Device) -> None:
    device.bucket.failures = 99
    device.hears(announcement())
    device.finishes()
    device.passes(60)
    assert device.bucket.tries == 5
    assert device.completions == []
    assert device.statuses[-1].reason == "the update could not be uploaded in 5 tries: no route to S3"


def test_uploads_end_with_the_deadline(device: Device) -> None:
    device.bucket.failures = 99
    device.hears(announcement(deadline_seconds=3))
    device.finishes()
    device.passes(60)
    assert device.bucket.tries < 5
    assert device.statuses[-1].reason == "deadline: the work was still uploading after 3 s: no route to S3"


def test_the_completion_is_said_again_until_the_verdict(device: Device) -> None:
    device.hears(announcement(deadline_seconds=1000))
    device.finishes()
    assert len(device.completions) == 1
    device.passes(100)
    said = len(device.completions)
    assert said > 1
    device.hears(verdict())
    device.passes(800)
    assert len(device.completions) == said


def test_the_completion_is_not_said_after_the_deadline(device: Device) -> None:
    device.hears(announcement(deadline_seconds=40))
    device.finishes()
    device.passes(40)
    said = len(device.completions)
    assert said in {2, 3}
    device.passes(2000)
    assert len(device.completions) == said


def test_a_refusal_is_logged_with_its_reason(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    device.hears(announcement())
    device.finishes()
    device.hears(verdict(counted=False, reason="array 'w' is missing"))
    assert "run-a/1/1: the cloud refused the reply: array 'w' is missing" in caplog.text


def test_the_next_round_ends_the_repeating_of_the_last(device: Device) -> None:
    device.hears(announcement(1, deadline_seconds=1000))
    device.finishes()
    device.hears(announcement(2, deadline_seconds=1000))
    device.passes(500)
    assert [message.round_id for message in device.completions] == ["run-a/1/1"]


def test_progress_is_told_now_and_then(device: Device) -> None:
    device.hears(announcement())
    device.bench.says(Progress(0.1))
    assert device.states == ["accepted"]
    device.passes(6)
    device.bench.says(Progress(0.4))
    device.bench.says(Progress(0.5))
    assert [status.progress for status in device.statuses] == [0.0, 0.4]


def test_the_worker_stays_warm_between_rounds_and_is_ended_later(device: Device) -> None:
    device.hears(announcement(1))
    device.finishes()
    device.hears(verdict(1))
    device.passes(60)
    device.hears(announcement(2))
    device.finishes()
    device.hears(verdict(2))
    device.passes(119)
    assert device.bench.stops == 0
    device.passes(2)
    assert device.bench.stops == 1


def test_the_update_file_is_gone_when_the_work_is_done(device: Device) -> None:
    device.hears(announcement())
    device.finishes()
    assert list((device.folder / "updates").iterdir()) == []


def test_another_fleet_is_entered_with_no_restart(device: Device) -> None:
    device.session.configure(configure(fleet="lab"))
    device.settle()
    assert set(device.broker.handlers) == {
        "fedgrass/lab/clients/press-1/announce",
        "fedgrass/lab/clients/press-1/heartbeat",
    }
    assert device.broker.sent[-2][0] == "fedgrass/lab/clients/press-1/hello"


def test_tasks_may_change_between_works(device: Device) -> None:
    device.session.configure(configure(tasks={"noise": {"megabytes": 2}}))
    device.hears(announcement(1, task="digits"))
    device.hears(announcement(2, task="noise"))
    assert device.states == ["declined", "accepted"]
    assert device.bench.works[0].options == {"megabytes": 2}
