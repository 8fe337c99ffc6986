"""One round in one process: the functions' handlers, a device's session and its worker, over ports in memory.

Messages take the path that they take on AWS: the rules' JSON into the handlers' events, announcements to the
session's subscription. Only the SDKs of AWS and Greengrass and the child process are left out.
"""

import base64
import json
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from cloud_functions import averager, initiator, wiring
from components.runtime.event_loop import EventLoop
from components.trainer.session.device_context import DeviceContext
from components.trainer.session.device_session import Session
from components.trainer.session.journal import Journal
from components.trainer.session.restarts import RestartBudget
from components.trainer.tasks.noise import Noise
from components.trainer.trainer_configuration import parse_configuration
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import Answer, WorkOrder
from fedgrass.federation import object_keys, topics
from fedgrass.federation.messages import Heartbeat, decode
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import Arrays
from tests.fakes.memory_device import Broker, Clock
from tests.fakes.small_fleet import FLEET, RUN, SmallFleet

PROJECT = Path(__file__).parents[2]
DEVICES = ("thing-0", "thing-1")


class LocalWorker:
    """A Worker in the calling thread."""

    def __init__(self, bucket: dict[str, bytes]) -> None:
        self._runner = WorkRunner(lambda _bucket, key, _size: bucket[key])

    def start(self, work: WorkOrder, answer: Callable[[Answer], None]) -> None:
        answer(self._runner.perform(work, lambda _fraction: None, lambda: False))

    def stop_early(self, round_id: str) -> None:
        """Nothing is in progress once ``start`` has returned."""

    def stop(self) -> None:
        """Nothing is in progress once ``start`` has returned."""


class LocalUploader:
    """An Uploader into the fleet's bucket."""

    def __init__(self, bucket: dict[str, bytes]) -> None:
        self._bucket = bucket

    def upload(self, path: Path, bucket: str, key: str, cancelled: threading.Event) -> None:  # noqa: ARG002
        self._bucket[key] = path.read_bytes()


class RoundDevice:
    """A session, its worker and its broker connection."""

    def __init__(self, thing: str, folder: Path, bucket: dict[str, bytes]) -> None:
        self.thing = thing
        folder.mkdir()
        self.broker = Broker()
        self.loop = EventLoop(Clock())
        context = DeviceContext(
            thing=thing,
            folder=folder / "updates",
            loop=self.loop,
            journal=Journal(folder),
            worker=LocalWorker(bucket),
            restart_budget=RestartBudget(folder),
            uploader=lambda: LocalUploader(bucket),
            rng=random.Random(7),  # noqa: S311 - jitter
            background=lambda call: call(),
        )
        configuration = parse_configuration({"fleet": FLEET, "tasks": {"noise": {"megabytes": 0.001}}})
        self.session = Session(context, self.broker, configuration, "1.2.3")

    def settle(self) -> None:
        for _ in range(10):
            self.loop.run_due()


class Context:
    """What Lambda hands to a handler."""

    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class WholeRound:
    """A fleet of two devices that runs one round."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        initial: Arrays = Noise(megabytes=0.001).initial_weights(seed=1)
        self.fleet = SmallFleet(len(DEVICES), initial=initial)
        monkeypatch.setattr(wiring, "services", lambda *_, **__: self.fleet.cloud)
        self.devices = [RoundDevice(thing, folder / thing, self.fleet.bucket.objects) for thing in DEVICES]

    def register(self) -> None:
        """Start the devices' sessions and pass on their heartbeats."""
        for device in self.devices:
            device.session.start()
            device.settle()
            self._registers(device)

    def play(self) -> None:
        """Start the run and pass on all messages until its only round is closed."""
        settings = {"task": "noise", "rounds": 1, "evaluate_last": False}
        answer = initiator.handler({"action": "start", "run": RUN, "settings": settings}, Context())
        assert answer["state"] == "RUNNING", answer
        for device in self.devices:
            self._announces(device)
            self._replies(device)

    @property
    def model(self) -> bytes:
        """The model that the round has made."""
        return self.fleet.bucket.objects[object_keys.model(RUN, 1)]

    def _registers(self, device: RoundDevice) -> None:
        heartbeats = self._sent(device, Kind.HEARTBEAT)
        message = decode(heartbeats[-1], Heartbeat)
        self.fleet.devices.heartbeat(device.thing, self.fleet.now, message.tasks)

    def _announces(self, device: RoundDevice) -> None:
        topic = topics.of_device(FLEET, device.thing, Kind.ANNOUNCE)
        for payload in self.fleet.publisher.on(topic):
            device.broker.deliver(topic, payload)
        device.settle()

    def _replies(self, device: RoundDevice) -> None:
        for kind in (Kind.STATUS, Kind.COMPLETE):
            for payload in self._sent(device, kind):
                body = {
                    "payload": base64.b64encode(payload).decode(),
                    "device": device.thing,
                    "kind": kind,
                    "client": device.thing,
                    "received_at": self.fleet.now,
                }
                event = {"Records": [{"messageId": "1", "body": json.dumps(body)}]}
                answer = averager.handler(event, Context())
                assert answer == {"batchItemFailures": []}, self.fleet.log

    def _sent(self, device: RoundDevice, kind: Kind) -> list[bytes]:
        topic = topics.of_device(FLEET, device.thing, kind)
        return [payload for name, payload, _ in device.broker.sent if name == topic]


@contextmanager
def reached() -> Iterator[list[tuple[str, str]]]:
    """Yield a list that is filled at the end: (file, qualified name) of the project's functions.

    They are in the order of their first call.
    """
    order: dict[tuple[str, str], None] = {}
    root = str(PROJECT) + "/"

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(root) and not file.startswith(theirs):
            order.setdefault((file.removeprefix(root), frame.f_code.co_qualname))

    theirs = (root + "tests/", root + ".venv/")
    found: list[tuple[str, str]] = []
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)
        found.extend(order)
