"""Requests for log lines: each is answered once, in time, and never at the cost of the round."""

from collections.abc import Callable
from pathlib import Path

import pytest

from components.runtime.component_errors import UploadFailed
from components.runtime.event_loop import Call, EventLoop
from components.trainer.device_log import log_answers
from components.trainer.device_log.log_answers import LogAnswerPorts, LogAnswers
from components.trainer.device_log.log_ring import FOLDER, LogRing
from fedgrass.federation.messages import LogRequest
from fedgrass.federation.messages.device_log import decode_log
from tests.fakes.memory_device import THING, Bucket, Device, announcement

NOW = 1_700_000_000_000
REQUESTS = [
    LogRequest(id=f"{number:032x}", bucket="fleet-bucket", expires_at=NOW + 1000) for number in range(9)
]


class Answering:
    """The answers of a device whose session, bucket and clock are fakes."""

    def __init__(self, folder: Path) -> None:
        self.ring = LogRing(now=lambda: NOW)
        self.ring.add("trainer", "INFO hello")
        self.bucket = Bucket()
        self.now = NOW
        self.held: list[Call] = []
        self.holds = False
        self.looked_again = 0
        self.folder = folder
        self.device = Device(folder, logs=self._connect)

    def _connect(self, loop: EventLoop) -> Callable[[LogRequest], None]:
        ports = LogAnswerPorts(
            ring=self.ring,
            uploader=lambda: self.bucket,
            loop=loop,
            look_again=self._look_again,
            background=lambda call: self.held.append(call) if self.holds else call(),
            now=lambda: self.now,
        )
        self.answers = LogAnswers(THING, "1.2.3", self.folder, ports)
        return self.answers.answer

    def _look_again(self) -> None:
        self.looked_again += 1

    def requests(self, *numbers: int) -> None:
        for number in numbers:
            self.device.hears(REQUESTS[number])

    def release(self) -> None:
        while self.held:
            self.held.pop(0)()
            self.device.settle()

    def lines(self, number: int) -> list[str]:
        name = REQUESTS[number].id
        data = self.bucket.objects[f"fleet-bucket/logs/{THING}/{name}.txt"]
        return decode_log(data, THING, name)[1]


@pytest.fixture
def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answering:
    monkeypatch.setattr(log_answers, "_PAUSES", (0.0, 0.0, 0.0))
    return Answering(tmp_path)


def test_a_request_is_answered_with_the_lines_under_the_device_s_own_name(
    answering: Answering, tmp_path: Path
) -> None:
    answering.requests(0)
    (line,) = answering.lines(0)
    assert line.endswith("trainer INFO hello")
    assert list((tmp_path / FOLDER).glob("*")) == []  # the file is removed


def test_a_doubled_request_is_answered_once(answering: Answering) -> None:
    answering.requests(0, 0)
    answering.requests(1, 0)
    assert answering.bucket.tries == 2


def test_an_expired_request_is_dropped(answering: Answering, caplog: pytest.LogCaptureFixture) -> None:
    answering.now = NOW + 1001
    with caplog.at_level("INFO"):
        answering.requests(0)
    assert answering.bucket.tries == 0
    assert "it has expired" in caplog.text


def test_a_request_that_expires_while_it_waits_is_given_up(answering: Answering) -> None:
    answering.holds = True
    answering.requests(0)
    answering.now = NOW + 1001
    answering.release()
    assert answering.bucket.tries == 0


def test_a_flood_of_requests_is_bounded_and_answered_one_after_the_other(answering: Answering) -> None:
    answering.holds = True
    answering.requests(*range(9))
    assert len(answering.held) == 1
    answering.release()
    assert answering.bucket.tries == 4
    answering.holds = False
    answering.requests(8)  # dropped before, so it is no copy
    assert answering.lines(8)


def test_a_request_during_a_training_leaves_the_work_alone(answering: Answering) -> None:
    answering.device.hears(announcement())
    answering.requests(0)
    assert answering.lines(0)
    assert answering.device.bench.stops == 0
    answering.device.finishes()
    assert [reply.round for reply in answering.device.completions] == [1]


def test_an_upload_that_hangs_does_not_delay_the_update(answering: Answering) -> None:
    answering.holds = True
    answering.requests(0)
    answering.device.hears(announcement())
    answering.device.finishes()
    assert len(answering.device.completions) == 1


class Failing(Bucket):
    def __init__(self, *, transient: bool) -> None:
        super().__init__()
        self.transient = transient

    def upload(self, *_: object) -> None:
        self.tries += 1
        message = "no route to S3"
        raise UploadFailed(message, transient=self.transient)


@pytest.mark.parametrize(("transient", "tries"), [(True, 3), (False, 1)])
def test_a_failed_upload_is_retried_if_it_may_pass_and_then_forgotten(
    answering: Answering, *, transient: bool, tries: int
) -> None:
    answering.bucket = Failing(transient=transient)
    answering.requests(0)
    assert answering.bucket.tries == tries
    assert answering.looked_again == (tries if transient else 0)
    answering.bucket = Bucket()
    answering.requests(1)
    assert answering.lines(1)


def test_a_full_disk_is_logged_and_the_next_request_is_answered(
    answering: Answering, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    with caplog.at_level("WARNING"):
        answering.requests(0)
    assert "the log lines cannot be written" in caplog.text
    (tmp_path / FOLDER).unlink()
    answering.requests(1)
    assert answering.lines(1)


def test_an_ending_process_gives_up_its_upload(answering: Answering) -> None:
    answering.holds = True
    answering.requests(0)
    answering.answers.close()
    answering.release()
    assert answering.bucket.tries == 0


def test_a_process_that_keeps_no_lines_drops_the_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(tmp_path)
    with caplog.at_level("INFO"):
        device.hears(REQUESTS[0])
    assert "none are kept" in caplog.text


@pytest.mark.parametrize(
    "payload",
    [
        b'{"type":"logs","version":1,"id":"../../device-2","bucket":"b","expires_at":1}',
        b'{"type":"logs","version":1,"id":"ABCDEF0123456789ABCDEF0123456789","bucket":"b","expires_at":1}',
        b'{"type":"logs","version":1,"bucket":"b","expires_at":1}',
        b'{"type":"logs","version":2,"id":"0123456789abcdef0123456789abcdef","bucket":"b","expires_at":1}',
    ],
)
def test_an_invalid_request_is_dropped(answering: Answering, payload: bytes) -> None:
    answering.device.hears(payload)
    assert answering.bucket.tries == 0
