"""A session takes queries of statistics as its configuration allows, and sends small answers by message."""

from pathlib import Path

import msgspec

from components.trainer.worker.worker_protocol import Failure, StatisticsPolicy
from tests.fakes.memory_device import Device, announcement, configure, result


def test_an_answer_in_the_result_is_sent_in_the_completion_without_an_upload(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement(work="statistics"))
    device.bench.says(msgspec.structs.replace(result(0), answer="AAAA"))
    device.settle()
    (completion,) = device.completions
    assert (completion.answer, completion.bytes) == ("AAAA", 0)
    assert device.bucket.tries == 0


def test_a_large_answer_is_uploaded_as_an_update_is(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.hears(announcement(work="statistics"))
    work = device.bench.works[-1]
    Path(work.update).parent.mkdir(exist_ok=True)
    Path(work.update).write_bytes(b"x" * 8)
    device.bench.says(result(8))
    device.settle()
    assert list(device.bucket.objects) == ["fleet-bucket/updates/press-1/run-a/1-1.safetensors"]
    assert [completion.answer for completion in device.completions] == [""]


def test_a_device_that_does_not_allow_statistics_declines_without_starting_its_worker(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.session.configure(configure(statistics={"allowed": False}))
    device.hears(announcement(work="statistics"))
    assert device.states == ["declined"]
    assert "statistics.allowed false" in device.statuses[-1].reason
    assert device.bench.works == []
    device.hears(announcement(run="run-b"))
    assert device.states == ["declined", "accepted"]


def test_the_worker_gets_the_policy_and_may_decline_by_it(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.session.configure(configure(statistics={"minimum_examples": 50}))
    device.hears(announcement(work="statistics"))
    assert device.bench.works[-1].statistics == StatisticsPolicy(minimum_examples=50)
    device.bench.says(Failure("too few examples", declined=True))
    device.settle()
    assert device.states == ["accepted", "declined"]
