"""Private arrays: they survive restarts, become valid with an upload only, and stay with their run."""

import os
from pathlib import Path

import msgspec
import pytest

from components.trainer.session.run_files import (
    FROZEN_SECONDS,
    KEPT_SECONDS,
    MOST_RUNS,
    PrivateStore,
    pending_private,
)
from components.trainer.worker.worker_protocol import Failure
from fedgrass.federation.messages import CarriedFile
from tests.fakes.memory_device import Device, announcement, result, verdict


def trains(device: Device, left: bytes = b"new") -> None:
    """Let the worker finish as it does with a partial model: with private arrays next to its update."""
    update = Path(device.bench.works[-1].update)
    update.parent.mkdir(exist_ok=True)
    pending_private(update).write_bytes(left)
    device.finishes()


def kept(folder: Path) -> dict[str, bytes]:
    found = (folder / "private").glob("*/*.safetensors")
    return {f"{file.parent.name}/{file.stem}": file.read_bytes() for file in found}


def test_the_worker_is_told_where_private_and_frozen_arrays_are(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement(continues="run-before"))
    work = device.bench.works[-1]
    assert work.private == str(tmp_path / "private" / "digits" / "run-a.safetensors")
    assert work.private_before == str(tmp_path / "private" / "digits" / "run-before.safetensors")
    assert work.frozen == str(tmp_path / "frozen")


def test_they_are_adopted_once_the_update_is_uploaded(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hold_uploads = True
    device.hears(announcement())
    trains(device)
    assert kept(tmp_path) == {}
    device.waiting.pop()()
    device.settle()
    assert kept(tmp_path) == {"digits/run-a": b"new"}
    assert list((tmp_path / "updates").iterdir()) == []


def test_an_update_that_was_never_uploaded_leaves_them_as_they_were(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    trains(device, b"of round 1")
    device.bucket.failures = 100
    device.hears(announcement(2))
    trains(device, b"of round 2")
    device.passes(600)
    assert device.states[-1] == "failed"
    assert kept(tmp_path) == {"digits/run-a": b"of round 1"}
    assert list((tmp_path / "updates").iterdir()) == []


def test_a_restart_before_the_upload_adopts_with_the_upload(tmp_path: Path) -> None:
    first = Device(tmp_path)
    first.hold_uploads = True
    first.hears(announcement())
    trains(first)
    again = Device(tmp_path)
    assert len(again.bucket.objects) == 1
    assert kept(tmp_path) == {"digits/run-a": b"new"}


def test_a_kill_between_upload_and_adoption_uploads_again_and_adopts(tmp_path: Path) -> None:
    first = Device(tmp_path)
    first.hears(announcement())
    trains(first, b"of round 1")
    first.hold_uploads = True
    first.hears(announcement(2))
    trains(first, b"of round 2")
    first.waiting.pop()()  # the object is in the bucket; the process dies before its event loop runs
    assert len(first.bucket.objects) == 2
    assert kept(tmp_path) == {"digits/run-a": b"of round 1"}
    Device(tmp_path)
    assert kept(tmp_path) == {"digits/run-a": b"of round 2"}


def test_they_survive_restarts_rounds_that_evaluate_and_other_runs_and_tasks(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    trains(device)
    again = Device(tmp_path)
    again.hears(announcement(2, work="evaluate"))
    again.finishes()
    again.hears(announcement(1, run="run-b"))
    trains(again, b"of run b")
    again.hears(announcement(1, run="run-c", task="noise"))
    trains(again, b"of noise")
    expected = {"digits/run-a": b"new", "digits/run-b": b"of run b", "noise/run-c": b"of noise"}
    assert kept(tmp_path) == expected


@pytest.mark.parametrize("rounds", [1, 2])
def test_those_of_a_refused_update_are_rolled_back(tmp_path: Path, rounds: int) -> None:
    device = Device(tmp_path)
    for number in range(1, rounds + 1):
        device.hears(announcement(number))
        trains(device, b"of round %d" % number)
    for _ in range(2):
        device.hears(verdict(rounds, counted=False, reason="its change is too long"))
    assert kept(tmp_path) == ({} if rounds == 1 else {"digits/run-a": b"of round 1"})


def test_a_late_refusal_does_not_touch_those_of_a_later_update(tmp_path: Path) -> None:
    device = Device(tmp_path)
    for number in (1, 2):
        device.hears(announcement(number))
        trains(device, b"of round %d" % number)
    device.hears(verdict(1, counted=False))
    assert kept(tmp_path) == {"digits/run-a": b"of round 2"}


def test_arrays_that_nobody_uses_any_more_are_removed(tmp_path: Path) -> None:
    private, frozen = tmp_path / "private" / "digits", tmp_path / "frozen"
    private.mkdir(parents=True)
    frozen.mkdir()
    now = 1_000_000_000.0
    ages = {f"run-{number}": 100.0 * number for number in range(MOST_RUNS + 2)}
    for folder, name, age in [
        *((private, name, age) for name, age in ages.items()),
        (private, "old", KEPT_SECONDS + 1),
        (frozen, "f" * 64, FROZEN_SECONDS - 1),
        (frozen, "0" * 64, FROZEN_SECONDS + 1),
    ]:
        file = folder / f"{name}.safetensors"
        file.write_bytes(b"x")
        os.utime(file, (now - age, now - age))
    PrivateStore(tmp_path, lambda: now).sweep()
    assert {file.stem for file in private.iterdir()} == {f"run-{number}" for number in range(MOST_RUNS)}
    assert [file.stem for file in frozen.iterdir()] == ["f" * 64]


def test_frozen_arrays_to_download_count_as_demand(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.host_metrics = type(device.host_metrics)(time=device.host_metrics.time, free_disk=1000)
    device.hears(announcement(frozen=CarriedFile(key="k", sha256="0" * 64, bytes=2000)))
    assert device.states == ["declined"]
    assert "for the update" in device.statuses[0].reason


def test_work_that_the_device_cannot_do_is_declined_after_it_was_accepted(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    device.bench.says(Failure("another version of the frozen base", declined=True))
    device.settle()
    assert device.states == ["accepted", "declined"]
    assert device.statuses[-1].reason == "another version of the frozen base"
    device.hears(announcement())  # repeated, as after a hello: it is not trained again
    assert len(device.bench.works) == 1


@pytest.mark.parametrize(("metrics", "sent"), [(1, True), (24, False)])
def test_a_note_travels_with_the_reply_as_long_as_the_message_has_room(
    tmp_path: Path, *, metrics: int, sent: bool
) -> None:
    device = Device(tmp_path)
    device.hears(announcement())
    update = Path(device.bench.works[-1].update)
    update.parent.mkdir(exist_ok=True)
    update.write_bytes(b"x" * 8)
    values = {f"{number:064}": 0.123456789 for number in range(metrics)}
    done = msgspec.structs.replace(result(), metrics=values, note="\x01" * 500)
    device.bench.says(done)
    device.settle()
    (completion,) = device.completions[:1]
    assert completion.metrics == values
    assert completion.code == "trainer 1.2.3"
    assert bool(completion.note) is sent
