"""The timeline of a work, which the device returns if the announcement carried a trace."""

from pathlib import Path

import msgspec
import pytest

from fedgrass.federation import messages
from fedgrass.federation.messages import LARGEST_MESSAGE, Announcement
from fedgrass.federation.messages.message_fields import LONGEST_ANSWER
from fedgrass.federation.messages.trace_context import parse_timeline, trace_id, traceparent
from tests.fakes.memory_device import Device, announcement, result

CONTEXT = traceparent(trace_id("garden", "run-a", 1, 1, 1_700_000_000_000))
PARTS = {"download": (0.5, 1.0), "train": (1.0, 3.0)}


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def traced() -> Announcement:
    return msgspec.structs.replace(announcement(), trace=CONTEXT)


def finish(device: Device, **changes: object) -> None:
    """Let the worker answer with what it took 4 s for."""
    update = Path(device.bench.works[-1].update)
    update.parent.mkdir(exist_ok=True)
    update.write_bytes(b"x" * 8)
    device.bench.says(msgspec.structs.replace(result(), timeline=PARTS, worker_seconds=4.0, **changes))
    device.settle()


def timeline(device: Device) -> object:
    return device.completions[-1].timeline


def test_parts_are_timed_from_the_arrival_of_the_announcement(device: Device) -> None:
    device.hold_uploads = True
    device.hears(traced())
    device.passes(10)  # the worker's process took 6 s to start
    finish(device)
    device.passes(5)
    device.waiting.pop()()
    device.settle()
    assert parse_timeline(str(timeline(device))) == {
        "start": (0, 6_000),
        "download": (6_500, 7_000),
        "train": (7_000, 9_000),
        "upload": (10_000, 15_000),
        "total": (0, 15_000),
    }


def test_without_a_trace_a_completion_is_what_it_always_was(device: Device) -> None:
    device.hears(announcement())
    device.passes(10)
    finish(device)
    assert timeline(device) is msgspec.UNSET


def test_a_device_that_was_restarted_has_no_timeline(device: Device) -> None:
    device.hold_uploads = True
    device.hears(traced())
    device.passes(10)
    finish(device)
    again = Device(device.folder)
    again.settle()
    assert timeline(again) is msgspec.UNSET


def test_a_completion_that_has_no_room_keeps_its_answer(device: Device) -> None:
    device.hears(announcement())
    finish(device)
    room = LARGEST_MESSAGE - len(messages.encode(device.completions[-1]))
    answer = "A" * LONGEST_ANSWER
    count, rest = divmod(room - len(answer) - 20, len(f'"{0:064}":0.5,'))
    metrics = {f"{number:064}": 0.5 for number in range(count)}
    device.hears(msgspec.structs.replace(traced(), round=2))
    finish(device, answer=answer, metrics=metrics, unsent_metrics="x" * rest)
    assert device.completions[-1].round == 2
    assert device.completions[-1].answer == answer
    assert timeline(device) is msgspec.UNSET
