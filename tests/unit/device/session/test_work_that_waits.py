"""Work that waits for a service: the session continues, and heartbeats have the reason until it is over."""

import json
import os
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from awsiot.greengrasscoreipc.model import GetConfigurationResponse, ResourceNotFoundError

from components.runtime import token_exchange_address
from components.runtime.component_errors import UploadFailed
from components.runtime.greengrass_ipc import GreengrassIpc
from components.trainer.session.assignment import UPLOAD_TRIES
from components.trainer.session.device_context import WorkTrouble
from components.trainer.worker.worker_process import WorkerProcess
from components.trainer.worker.worker_protocol import Answer, Failure, Progress, Waiting, WorkOrder
from fedgrass.federation import messages
from fedgrass.federation.messages import Heartbeat
from tests.fakes.memory_device import Device, announcement
from tests.fakes.stubbed_device_cloud import device_cloud

pytestmark = pytest.mark.slow  # seconds of trainings, floods or sums: make test runs them


class Outage:
    """An Uploader whose service is down for a number of tries."""

    def __init__(self, tries: int, *, transient: bool = True) -> None:
        self.left = tries
        self.made = 0
        self.transient = transient

    def upload(self, path: Path, bucket: str, key: str, cancelled: threading.Event) -> None:
        assert path.exists()
        assert bucket
        assert key
        if cancelled.is_set():
            return
        self.made += 1
        if self.made <= self.left:
            message = "Stream Manager: ConnectionRefusedError"
            raise UploadFailed(message, transient=self.transient)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path, heartbeat_seconds=1)


def newest_heartbeat(device: Device) -> Heartbeat:
    device.passes(3)
    found = device.said("heartbeat")[-1]
    assert isinstance(found, Heartbeat)
    return found


def test_an_outage_of_the_uploads_service_is_outlasted_until_the_deadline(device: Device) -> None:
    outage = device.bucket = Outage(3 * UPLOAD_TRIES)  # type: ignore[assignment]
    device.hears(announcement(deadline_seconds=5_000))
    device.finishes()
    assert newest_heartbeat(device).work_error == "Stream Manager: ConnectionRefusedError"
    device.passes(4_000, step=5)
    assert outage.made == 3 * UPLOAD_TRIES + 1
    assert {completion.round for completion in device.completions} == {1}
    assert "failed" not in device.states
    assert newest_heartbeat(device).work_error == ""


def test_an_outage_that_lasts_is_the_reason_at_the_deadline(device: Device) -> None:
    device.bucket = Outage(10_000)  # type: ignore[assignment]
    device.hears(announcement(deadline_seconds=600))
    device.finishes()
    device.passes(700, step=1)
    assert device.statuses[-1].reason == (
        "deadline: the work was still uploading after 600 s: Stream Manager: ConnectionRefusedError"
    )
    assert newest_heartbeat(device).work_error == ""
    assert newest_heartbeat(device).state == "idle"


def test_what_is_not_known_to_be_transient_is_tried_a_few_times(device: Device) -> None:
    outage = device.bucket = Outage(10_000, transient=False)  # type: ignore[assignment]
    device.hears(announcement(deadline_seconds=5_000))
    device.finishes()
    device.passes(1_000, step=1)
    assert outage.made == UPLOAD_TRIES
    assert device.states[-1] == "failed"


def test_a_worker_that_waits_for_credentials_is_heard_in_the_heartbeats(device: Device) -> None:
    reason = "the model cannot be downloaded: the token exchange service: Connection refused"
    device.hears(announcement(deadline_seconds=1_000))
    device.bench.says(Waiting(reason))
    device.bench.says(Waiting(reason))
    heartbeat = newest_heartbeat(device)
    assert (heartbeat.state, heartbeat.work_error) == ("working", reason)
    device.bench.says(Progress(0.1))
    assert newest_heartbeat(device).work_error == ""
    device.finishes()
    assert len(device.completions) == 1


def test_a_work_that_only_waited_fails_at_its_deadline_with_the_reason(device: Device) -> None:
    device.hears(announcement(deadline_seconds=100))
    device.bench.says(Waiting("no credentials"))
    device.passes(200, step=1)
    assert device.statuses[-1].reason == ("deadline: the work was still training after 100 s: no credentials")
    assert newest_heartbeat(device).work_error == ""


def test_trouble_looks_for_services_that_moved_and_fits_a_heartbeat() -> None:
    looked: list[bool] = []
    trouble = WorkTrouble(lambda: looked.append(True))
    trouble.note("é" * 1_000)
    assert looked == [True]
    heartbeat = Heartbeat(
        state="working",
        tasks="",
        examples=0,
        component_version="",
        uptime_seconds=0,
        work_error=trouble.reason,
    )
    assert messages.decode(messages.encode(heartbeat), Heartbeat) == heartbeat
    trouble.over()
    assert (trouble.reason, looked) == ("", [True])


class Configurations:
    """The IPC client, as far as configurations of the token exchange service go."""

    def __init__(self, **found: object) -> None:
        self._found = found

    def get_configuration_async(self, component_name: str, key_path: list[str]) -> "Future[Any]":
        assert component_name == token_exchange_address.COMPONENT
        answer: Future[Any] = Future()
        (key,) = key_path
        if key in self._found:
            answer.set_result(GetConfigurationResponse(value={key: self._found[key]}))
        else:
            answer.set_exception(ResourceNotFoundError(message=""))
        return answer


@pytest.mark.parametrize(
    ("found", "port"),
    [
        ({"port": "37211"}, 37211),  # Nucleus Lite
        ({"port": 0, "activePort": 41023}, 41023),  # the classic one, which took a free port
        ({"port": "0"}, None),
        ({"port": "http"}, None),
        ({}, None),
    ],
)
def test_both_nuclei_name_the_port_of_the_token_exchange_service(
    found: dict[str, object], port: int | None
) -> None:
    nucleus = GreengrassIpc(Configurations(**found), lambda _reason: None)
    assert nucleus.token_exchange_port() == port


def test_a_worker_that_is_there_already_learns_the_new_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Answer] = []
    moved, ended = threading.Event(), threading.Event()
    monkeypatch.setenv("HOME", str(tmp_path))
    with device_cloud(lambda *_: (200, b"12345678")) as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        right = os.environ[token_exchange_address.ADDRESS]
        monkeypatch.setenv(token_exchange_address.ADDRESS, "http://localhost:9/")
        worker = WorkerProcess(lambda call: call())

        def answered(answer: Answer) -> None:
            answers.append(answer)
            (moved if isinstance(answer, Waiting) else ended).set()

        asked = announcement(model_bytes=8, task="noise")  # the one that needs no torch
        work = WorkOrder(announcement=asked, options={}, update=str(tmp_path / "update"))
        worker.start(work, answered)
        try:
            assert moved.wait(60)
            worker.find_credentials_at(right)
            assert ended.wait(60)
        finally:
            worker.close()
        assert set(cloud.used) == {"ASIAFRESH"}
    assert "the token exchange service" in json.dumps(getattr(answers[0], "reason", ""))
    # The file that was downloaded is not the announced one; that it was is the point here.
    assert isinstance(answers[-1], Failure)
    assert "SHA-256" in answers[-1].reason
