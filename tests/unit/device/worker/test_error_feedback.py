"""Error feedback: the residual survives restarts, is never lost with an update, and does not accumulate."""

import os
from pathlib import Path

import pytest

from components.trainer.session.error_feedback import KEPT_SECONDS, ErrorFeedback, pending_path
from tests.fakes.memory_device import Device, announcement, verdict


def trains(device: Device, remembered: bytes = b"new") -> None:
    """Let the worker finish as it does with top_k: with a client state next to its update."""
    work = device.bench.works[-1]
    folder = Path(work.update).parent
    folder.mkdir(exist_ok=True)
    pending_path(Path(work.update)).write_bytes(remembered)
    device.finishes()


def kept(folder: Path) -> dict[str, bytes]:
    found = (folder / "memory").glob("*.safetensors")
    return {file.name: file.read_bytes() for file in found}


def test_the_worker_is_given_the_path_of_the_residual_of_former_updates(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    assert device.bench.works[-1].memory == str(tmp_path / "memory" / "run-a.safetensors")


def test_what_an_update_left_over_is_adopted_once_it_is_uploaded(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hold_uploads = True
    device.hears(announcement())
    trains(device)
    assert kept(tmp_path) == {}
    device.waiting.pop()()
    device.settle()
    assert kept(tmp_path) == {"run-a.safetensors": b"new"}
    assert list((tmp_path / "updates").iterdir()) == []


def test_an_update_that_was_never_uploaded_leaves_what_was_kept_as_it_was(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    trains(device, b"of round 1")
    device.bucket.failures = 100
    device.hears(announcement(2))
    trains(device, b"of round 2")
    device.passes(600)
    assert device.states[-1] == "failed"
    assert kept(tmp_path) == {"run-a.safetensors": b"of round 1"}
    assert list((tmp_path / "updates").iterdir()) == []


def test_a_round_that_takes_the_place_of_another_leaves_what_was_kept_as_it_was(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    trains(device, b"of round 1")
    device.hold_uploads = True
    device.hears(announcement(2))
    trains(device, b"of round 2")
    device.hears(announcement(3))
    device.waiting.pop()()
    device.settle()
    assert kept(tmp_path) == {"run-a.safetensors": b"of round 1"}


def test_a_restart_before_the_upload_adopts_with_the_upload(tmp_path: Path) -> None:
    first = Device(tmp_path)
    first.hold_uploads = True
    first.hears(announcement())
    trains(first)
    again = Device(tmp_path)
    assert len(again.bucket.objects) == 1
    assert kept(tmp_path) == {"run-a.safetensors": b"new"}


def test_what_was_kept_survives_a_restart_and_rounds_that_evaluate(tmp_path: Path) -> None:
    first = Device(tmp_path)
    first.hears(announcement())
    trains(first)
    again = Device(tmp_path)
    again.hears(announcement(2, work="evaluate"))
    again.finishes()
    again.hears(announcement(1, run="run-b", work="evaluate"))
    again.finishes()
    assert kept(tmp_path) == {"run-a.safetensors": b"new"}


def test_training_for_another_run_drops_what_was_kept_for_the_former(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    trains(device)
    device.hears(announcement(run="run-b"))
    assert kept(tmp_path) == {}


def test_what_is_older_than_thirty_days_is_dropped_at_the_next_start(tmp_path: Path) -> None:
    file = tmp_path / "memory" / "run-a.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"old")
    written = file.stat().st_mtime
    os.utime(file, (written, written - KEPT_SECONDS + 3600))
    Device(tmp_path)
    assert file.exists()
    os.utime(file, (written, written - KEPT_SECONDS - 3600))
    Device(tmp_path)
    assert not file.exists()


def test_a_clock_that_was_set_back_drops_nothing(tmp_path: Path) -> None:
    memory = ErrorFeedback(tmp_path, now=lambda: 0.0)
    memory.path("run-a").write_bytes(b"x")
    memory.sweep("run-a")
    assert memory.path("run-a").exists()


def test_adopting_twice_does_no_harm(tmp_path: Path) -> None:
    memory, update = ErrorFeedback(tmp_path / "memory"), tmp_path / "update"
    pending_path(update).write_bytes(b"new")
    memory.adopt(update, "run-a")
    memory.adopt(update, "run-a")
    assert memory.path("run-a").read_bytes() == b"new"


def test_a_disk_that_cannot_be_written_costs_only_what_was_left_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "memory").write_bytes(b"a file where the folder should be")
    device = Device(tmp_path)
    device.hears(announcement())
    trains(device)
    assert len(device.completions) == 1
    assert "cannot be kept" in caplog.text


def test_what_was_remembered_of_an_update_that_is_refused_is_taken_back_once(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    trains(device, b"of round 1")
    device.hears(verdict())
    device.hears(announcement(2))
    trains(device, b"of round 2")
    assert kept(tmp_path) == {"run-a.safetensors": b"of round 2"}
    device.hears(verdict(2, counted=False, reason="too late"))
    assert kept(tmp_path) == {"run-a.safetensors": b"of round 1"}
    device.hears(announcement(3))
    trains(device, b"of round 3")
    device.hears(verdict(2, counted=False, reason="too late"))  # again, and late
    assert kept(tmp_path) == {"run-a.safetensors": b"of round 3"}


def test_an_update_that_was_counted_and_is_refused_in_the_aggregation_is_rolled_back(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    trains(device, b"of round 1")
    device.hears(verdict())
    device.hears(announcement(2))
    trains(device, b"of round 2")
    device.hears(verdict(2))
    device.hears(verdict(2, counted=False, reason="not finite"))
    assert kept(tmp_path) == {"run-a.safetensors": b"of round 1"}


def test_the_first_update_that_is_refused_leaves_nothing_to_remember(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    trains(device)
    device.hears(verdict(counted=False, reason="too late"))
    assert kept(tmp_path) == {"run-a.safetensors": b""}


def test_a_verdict_that_comes_when_the_next_training_has_begun_takes_nothing_back(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    trains(device, b"of round 1")
    device.hears(announcement(2))
    device.hears(verdict(counted=False, reason="too late"))
    assert kept(tmp_path) == {"run-a.safetensors": b"of round 1"}
