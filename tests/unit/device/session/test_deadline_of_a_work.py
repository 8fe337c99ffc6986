"""A training that the deadline cuts short, where the run takes parts; and the time that is left for them."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from components.trainer.worker.worker_protocol import Failure, margin_before
from tests.fakes.memory_device import Device, announcement, result, verdict

seconds = some.floats(0, 1e6)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_shortly_before_the_deadline_a_training_is_asked_for_what_it_has(device: Device) -> None:
    device.hears(announcement(deadline_seconds=100, allow_partial=True))
    device.passes(89)
    assert device.bench.to_finish == []
    device.passes(2)
    assert device.bench.to_finish == ["run-a/1/1"]
    assert device.bench.stops == 0


def test_a_part_is_completed_as_a_part_with_the_examples_that_were_seen(device: Device) -> None:
    device.hears(announcement(deadline_seconds=100, allow_partial=True))
    device.passes(91)
    Path(device.bench.works[-1].update).parent.mkdir(exist_ok=True)
    Path(device.bench.works[-1].update).write_bytes(b"x" * 8)
    device.bench.says(msgspec.structs.replace(result(), partial=True, examples=12, examples_of_task=40))
    device.settle()
    assert [(said.partial, said.examples) for said in device.completions] == [(True, 12)]
    heartbeat = Device(device.folder).said("heartbeat")[0]
    assert getattr(heartbeat, "examples", None) == 40


def test_a_run_that_takes_no_parts_has_its_training_go_on_until_the_deadline(device: Device) -> None:
    device.hears(announcement(deadline_seconds=100))
    device.passes(99)
    assert device.bench.to_finish == []
    device.finishes()
    assert [said.partial for said in device.completions] == [False]


def test_a_training_that_does_not_heed_it_fails_at_the_deadline(device: Device) -> None:
    device.hears(announcement(deadline_seconds=100, allow_partial=True))
    device.passes(101)
    assert device.states == ["accepted", "failed"]
    assert device.bench.stops == 1


def test_an_update_that_is_on_its_way_is_not_asked_to_finish(device: Device) -> None:
    device.hold_uploads = True
    device.hears(announcement(deadline_seconds=100, allow_partial=True))
    device.finishes()
    device.passes(99)
    assert device.bench.to_finish == []


def test_a_deadline_that_comes_forward_brings_the_end_of_the_training_forward(device: Device) -> None:
    device.hears(announcement(deadline_seconds=1000, allow_partial=True))
    device.hears(announcement(deadline_seconds=100, allow_partial=True))
    device.passes(91)
    assert device.bench.to_finish == ["run-a/1/1"]
    device.passes(900)
    assert device.bench.to_finish == ["run-a/1/1"]


def test_a_failure_before_the_margin_ends_it_all(device: Device) -> None:
    device.hears(announcement(deadline_seconds=100, allow_partial=True))
    device.bench.says(Failure("no data"))
    device.passes(200)
    assert device.bench.to_finish == []
    assert device.states == ["accepted", "failed"]


def test_a_slow_upload_before_leaves_more_time_for_the_next(device: Device) -> None:
    device.hold_uploads = True
    device.hears(announcement(1, deadline_seconds=100, allow_partial=True))
    device.finishes()
    device.passes(15)
    device.waiting.pop()()
    device.settle()
    device.hears(verdict(1))
    device.hears(announcement(2, deadline_seconds=100, allow_partial=True))
    device.passes(59)
    assert device.bench.to_finish == []
    device.passes(2)  # 10 s, and twice 15 s
    assert device.bench.to_finish == ["run-a/2/1"]


@given(seconds, seconds)
def test_a_margin_leaves_at_least_half_of_the_time_to_the_training(whole: float, upload: float) -> None:
    margin = margin_before(whole, upload)
    assert 0 <= margin <= whole / 2
    assert margin_before(whole, upload * 2) >= margin
