"""Restarts, outages and lost subscriptions."""

import logging
from pathlib import Path

import msgspec
import pytest

from tests.fakes.memory_device import TOPICS, Device, announcement, configure, result, verdict


def heartbeats(device: Device) -> int:
    return len(device.said("heartbeat"))


def test_interrupted_training_waits_for_its_announcement(tmp_path: Path) -> None:
    first = Device(tmp_path)
    first.hears(announcement())
    again = Device(tmp_path)
    assert again.bench.works == []
    again.hears(announcement())
    again.finishes()
    assert [message.round_id for message in again.completions] == ["run-a/1/1"]


def test_an_update_that_was_written_is_uploaded_and_not_trained_again(tmp_path: Path) -> None:
    first = Device(tmp_path)
    first.hold_uploads = True
    first.hears(announcement())
    first.finishes()
    again = Device(tmp_path)
    assert again.bench.works == []
    assert list(again.bucket.objects.values()) == [b"x" * 8]
    assert [message.round_id for message in again.completions] == ["run-a/1/1"]


def test_an_update_that_was_cut_short_is_trained_again(tmp_path: Path) -> None:
    first = Device(tmp_path)
    first.hold_uploads = True
    first.hears(announcement())
    first.finishes()
    (update,) = (tmp_path / "updates").iterdir()
    update.write_bytes(b"x")
    again = Device(tmp_path)
    assert again.completions == []
    again.hears(announcement())
    assert len(again.bench.works) == 1


def test_a_completion_with_no_verdict_is_said_again_after_a_restart(tmp_path: Path) -> None:
    first = Device(tmp_path)
    first.hears(announcement())
    first.finishes()
    again = Device(tmp_path)
    assert again.completions == first.completions


def test_a_completion_with_a_verdict_is_not_said_again_after_a_restart(tmp_path: Path) -> None:
    first = Device(tmp_path)
    first.hears(announcement())
    first.finishes()
    first.hears(verdict())
    assert Device(tmp_path).completions == []


def test_files_of_old_work_are_deleted_at_start(tmp_path: Path) -> None:
    updates = tmp_path / "updates"
    updates.mkdir()
    (updates / "run-z-1-1.safetensors").write_bytes(b"x")
    (updates / "run-z-2-1.safetensors.unfinished").write_bytes(b"x")
    Device(tmp_path)
    assert list(updates.iterdir()) == []


def test_a_journal_that_cannot_be_read_is_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "journal.json").write_bytes(b'{"work": 3')
    device = Device(tmp_path)
    assert "starting a new one" in caplog.text
    device.hears(announcement())
    assert device.states == ["accepted"]


def test_the_number_of_examples_is_known_after_a_restart(tmp_path: Path) -> None:
    first = Device(tmp_path)
    first.hears(announcement())
    first.finishes()
    heartbeat = Device(tmp_path).said("heartbeat")[0]
    assert getattr(heartbeat, "examples", None) == 40


def test_messages_wait_until_they_are_taken_and_keep_their_order(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    device.broker.online = False
    device.finishes()
    device.passes(5)
    assert device.completions == []
    device.broker.online = True
    device.passes(16)
    assert len(device.completions) >= 1


def test_a_device_that_starts_offline_subscribes_later(tmp_path: Path) -> None:
    device = Device(tmp_path, online=False)
    assert device.broker.subscribed == []
    assert device.ready == 0
    device.broker.online = True
    device.passes(40)
    assert device.ready == 1
    assert len(device.said("hello")) == 1


def test_a_device_offline_for_hours_does_not_exit(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.broker.online = False
    device.passes(4 * 3600, step=30)
    assert device.exit_code is None


def test_a_device_says_hello_when_it_comes_back(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.broker.online = False
    device.passes(130)
    device.broker.online = True
    device.passes(70)
    assert len(device.said("hello")) == 2


def test_the_echo_keeps_a_healthy_device_quiet(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.passes(3600, step=5)
    assert heartbeats(device) in range(54, 68)
    assert len(device.said("hello")) == 1
    assert len(device.broker.subscribed) == 2


def test_heartbeats_are_never_stored_for_later(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.passes(300)
    assert {qos for topic, _, qos in device.broker.sent if topic.endswith("heartbeat")} == {0}


def test_a_missing_echo_leads_to_a_new_subscription_and_then_to_the_exit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(tmp_path, heartbeat_seconds=10)
    device.broker.deaf = True
    device.passes(25)
    assert len(device.broker.subscribed) == 2
    device.passes(15)
    assert len(device.broker.subscribed) == 4
    assert device.exit_code is None
    with caplog.at_level(logging.ERROR):
        device.passes(30)
    assert device.exit_code == 75
    assert "none came back" in caplog.text


def test_a_new_subscription_that_helps_keeps_the_process(tmp_path: Path) -> None:
    device = Device(tmp_path, heartbeat_seconds=10)
    device.broker.deaf = True
    device.passes(40)
    device.broker.deaf = False
    device.passes(300)
    assert device.exit_code is None
    assert len(device.said("hello")) == 2


def test_a_changed_interval_holds_from_the_next_heartbeat(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.session.configure(configure(heartbeat_seconds=5))
    device.passes(70)
    before = heartbeats(device)
    device.passes(60)
    assert heartbeats(device) - before in range(10, 15)


def test_a_verdict_on_the_work_in_hand_ends_it(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    device.hears(verdict(counted=False, reason="the round is over"))
    assert device.bench.stops == 1
    device.finishes()
    assert device.completions == []
    assert f"{TOPICS}/announce" in device.broker.handlers


def test_a_reply_is_written_down_before_its_update_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Device(tmp_path)
    first.hears(announcement())

    def crash(*_: object, **__: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as crashing:
        crashing.setattr(Path, "unlink", crash)
        with pytest.raises(InterruptedError):
            first.finishes()
    (tmp_path / "updates" / "run-a-1-1.safetensors").unlink()
    again = Device(tmp_path)
    again.hears(announcement())
    assert again.bench.works == []
    assert {message.round_id for message in again.completions} == {"run-a/1/1"}


def test_what_a_killed_worker_left_goes_with_the_next_work_or_once_the_device_is_idle(tmp_path: Path) -> None:
    device = Device(tmp_path, warm_seconds=30)
    left = tmp_path / "updates" / "run-a-1-1.safetensors.unfinished"
    device.hears(announcement(1))
    device.hears(announcement(2))
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"x")
    device.hears(announcement(3))
    assert not left.exists()
    left.write_bytes(b"x")
    device.finishes()
    device.passes(31)
    assert list(left.parent.iterdir()) == []


def test_a_reply_that_is_repeated_offline_waits_once(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement(deadline_seconds=7200.0))
    device.broker.online = False
    device.finishes()
    device.passes(3600, step=5)
    device.broker.online = True
    device.passes(20)
    assert len(device.completions) == 1


def test_a_heartbeat_that_cannot_be_sent_does_not_end_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = msgspec.structs.replace(result(), examples_of_task=-5)
    Device(tmp_path).context.journal.record_result(announcement(work="evaluate"), wrong)
    device = Device(tmp_path)
    assert device.said("hello")
    assert device.exit_code is None
    assert "not sent" in caplog.text


def test_a_device_that_moves_to_another_fleet_may_subscribe_anew_there(tmp_path: Path) -> None:
    device = Device(tmp_path, heartbeat_seconds=10)
    device.broker.deaf = True
    device.passes(46)
    subscribed = len(device.broker.subscribed)
    assert subscribed == 4
    device.session.configure(configure(fleet="other", heartbeat_seconds=10))
    device.passes(36)
    assert len(device.broker.subscribed) == subscribed + 4  # on entering, and for want of an echo


@pytest.mark.parametrize("finished", [False, True], ids=["uploading", "replied"])
def test_what_belongs_to_another_fleet_is_dropped_by_a_restart_in_a_new_one(
    tmp_path: Path,
    finished: bool,  # noqa: FBT001 - a parameter
) -> None:
    """Nucleus Lite restarts the component when a deployment changes its fleet."""
    first = Device(tmp_path)
    first.hold_uploads = not finished
    first.hears(announcement())
    first.finishes()
    again = Device(tmp_path, fleet="orchard")
    again.passes(60)
    assert again.completions == []
    assert again.bucket.objects == {}
    assert again.context.journal.state.fleet == "orchard"


def test_a_reply_is_not_repeated_in_a_fleet_that_did_not_ask(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    device.finishes()
    said = len(device.completions)
    device.session.configure(configure(fleet="orchard"))
    device.passes(90)
    assert len(device.completions) == said
    assert [topic for topic, _, _ in device.broker.sent if "orchard" in topic and "complete" in topic] == []
