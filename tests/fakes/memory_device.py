"""A device without SDKs: fakes that keep the contracts of the session's ports, and a manual clock."""

import random
import threading
from collections.abc import Callable, Mapping
from datetime import time
from pathlib import Path
from typing import Any

from components.runtime.component_errors import Unavailable, UploadFailed
from components.runtime.event_loop import Call, EventLoop
from components.trainer.session.device_context import DeviceContext, keep_no_lines
from components.trainer.session.device_session import Session
from components.trainer.session.eligibility import HostMetrics
from components.trainer.session.journal import Journal
from components.trainer.session.restarts import RestartBudget
from components.trainer.session.task_readiness import TaskReadiness
from components.trainer.trainer_configuration import Configuration, parse_configuration
from components.trainer.worker.worker_protocol import Answer, Progress, Result, Waiting, WorkOrder
from fedgrass.federation.messages import (
    Announcement,
    Completion,
    Heartbeat,
    Hello,
    LogRequest,
    Message,
    Status,
    Verdict,
    decode,
    encode,
)

THING = "press-1"
TOPICS = f"fedgrass/plant/clients/{THING}"
KINDS: dict[str, type[Message]] = {
    "complete": Completion,
    "status": Status,
    "hello": Hello,
    "heartbeat": Heartbeat,
}


class Clock:
    """A clock that the test moves, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Broker:
    """A Messaging in memory: accepts messages while online, and echoes those on subscribed topics."""

    def __init__(self) -> None:
        self.online = True
        self.deaf = False  # accepts messages and delivers none, as after a restart of Lite's MQTT daemon
        self.sent: list[tuple[str, bytes, int]] = []
        self.subscribed: list[str] = []
        self.handlers: dict[str, Callable[[bytes], None]] = {}
        self.refused: dict[str, Exception] = {}  # by topic: what its subscription raises

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        self._check()
        self.sent.append((topic, payload, qos))
        self.deliver(topic, payload)

    def subscribe(self, topic: str, handler: Callable[[bytes], None], qos: int) -> None:
        assert qos in {0, 1}
        self._check()
        self.subscribed.append(topic)
        if error := self.refused.get(topic):
            raise error  # an earlier subscription to the topic continues
        self.handlers[topic] = handler

    def unsubscribe(self, topic: str) -> None:
        self.handlers.pop(topic, None)

    def deliver(self, topic: str, payload: bytes) -> None:
        if topic in self.handlers and not self.deaf:
            self.handlers[topic](payload)

    def _check(self) -> None:
        if not self.online:
            message = "offline"
            raise Unavailable(message)


class MemoryHost(Broker):
    """A Host in memory, whose configuration a test changes."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.values = dict(values)
        self.reads = 0
        self.failures = 0  # reads of the configuration that fail first
        self.unwatched = 0  # requests to watch it that fail first
        self.running = 0  # reports
        self.options_changed = False
        self._changed: Callable[[], None] | None = None
        self._lost: Callable[[str, str], None] = lambda _topic, _reason: None

    def configuration(self) -> dict[str, Any]:
        self.reads += 1
        self.options_changed = False
        if self.failures:
            self.failures -= 1
            message = "could not read the configuration: the nucleus did not answer within 10 s"
            raise Unavailable(message)
        return dict(self.values)

    def watch_configuration(self, changed: Callable[[], None]) -> None:
        if self.unwatched:
            self.unwatched -= 1
            message = "could not watch the configuration: the nucleus did not answer within 10 s"
            raise Unavailable(message)
        self._changed = changed

    def change(self, *, times: int = 1, **values: Any) -> None:
        """Change the configuration, and report it ``times`` times, as a deployment of many values does."""
        self.values.update(values)
        for _ in range(times):
            assert self._changed
            self._changed()

    def device_options_changed(self) -> bool:
        return self.options_changed

    def watch_subscriptions(self, lost: Callable[[str, str], None]) -> None:
        self._lost = lost

    def lose(self, topic: str) -> None:
        """End one subscription, and report it."""
        del self.handlers[topic]
        self._lost(topic, "the subscription has ended")

    def trouble(self) -> str:
        return ""

    def watch_updates(self, asked: Callable[[str], None]) -> None:
        """Announce no update."""

    def defer_update(self, deployment: str, seconds: float, reason: str) -> None:
        """Have no update to defer."""

    def token_exchange_port(self) -> int | None:
        return None

    def report_running(self) -> None:
        self.running += 1

    def close(self) -> None:
        self.online = False
        self.handlers.clear()


class Bench:
    """A Worker whose answers the test gives."""

    def __init__(self) -> None:
        self.works: list[WorkOrder] = []
        self.stops = 0
        self.to_finish: list[str] = []
        self._answer: Callable[[Answer], None] | None = None

    def start(self, work: WorkOrder, answer: Callable[[Answer], None]) -> None:
        self.works.append(work)
        self._answer = answer

    def stop_early(self, round_id: str) -> None:
        self.to_finish.append(round_id)

    def stop(self) -> None:
        self.stops += 1
        self._answer = None

    def says(self, answer: Answer) -> None:
        """Answer as the process does: nothing after a result, a failure or a stop."""
        notify = self._answer
        if not isinstance(answer, (Progress, Waiting)):
            self._answer = None
        if notify:
            notify(answer)

    def finishes(self, size: int = 8) -> None:
        """Write the update and answer with the result."""
        work = self.works[-1]
        if work.announcement.work == "train":
            Path(work.update).parent.mkdir(exist_ok=True)
            Path(work.update).write_bytes(b"x" * size)
        self.says(result(size if work.announcement.work == "train" else 0))


class Bucket:
    """An Uploader in memory that first fails ``failures`` times."""

    def __init__(self) -> None:
        self.failures = 0
        self.objects: dict[str, bytes] = {}
        self.tries = 0

    def upload(self, path: Path, bucket: str, key: str, cancelled: threading.Event) -> None:
        if cancelled.is_set():
            return
        self.tries += 1
        if self.tries <= self.failures:
            message = "no route to S3"
            raise UploadFailed(message)
        try:
            self.objects[f"{bucket}/{key}"] = path.read_bytes()
        except OSError as error:
            message = f"{path.name} cannot be read: {error}"
            raise UploadFailed(message) from error


class Device:
    """A session with its fakes, in a work folder; another Device of the same folder is its restart."""

    def __init__(  # noqa: PLR0913 - by keyword
        self,
        folder: Path,
        *,
        online: bool = True,
        clock: Clock | None = None,
        refused: Mapping[str, Exception] | None = None,
        readiness: TaskReadiness | None = None,
        logs: Callable[[EventLoop], Callable[[LogRequest], None]] | None = None,
        **configuration: object,
    ) -> None:
        self.clock = clock or Clock()
        self.loop = EventLoop(self.clock)
        self.broker = Broker()
        self.broker.online = online
        self.broker.refused.update(refused or {})
        self.bench = Bench()
        self.bucket = Bucket()
        self.waiting: list[Call] = []  # uploads, while they are held
        self.hold_uploads = False
        self.ready = 0
        self.measured: dict[str, float | bool] = {}  # battery and mains
        self.host_metrics = HostMetrics(time=time(12))
        self.folder = folder
        self.context = DeviceContext(
            thing=THING,
            folder=folder / "updates",
            loop=self.loop,
            journal=Journal(folder),
            worker=self.bench,
            restart_budget=RestartBudget(folder, self.clock),
            uploader=lambda: self.bucket,
            rng=random.Random(7),  # noqa: S311 - jitter
            background=self._background,
            measure=lambda: self.measured,
            host_metrics=lambda _folder: self.host_metrics,
            send_log=logs(self.loop) if logs else keep_no_lines,
        )
        self.session = Session(
            self.context,
            self.broker,
            configure(**configuration),
            "1.2.3",
            ready=self._ready,
            readiness=readiness,
        )
        self.session.start()
        self.settle()

    def settle(self) -> None:
        """Run everything that is due now."""
        for _ in range(10):
            self.loop.run_due()

    def passes(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now = min(until, self.clock.now + step)
            self.loop.run_due()
        self.settle()

    def hears(self, message: Message | bytes) -> None:
        """Deliver an announcement or a verdict."""
        payload = encode(message) if isinstance(message, Message) else message
        self.broker.deliver(f"{TOPICS}/announce", payload)
        self.settle()

    def finishes(self, size: int = 8) -> None:
        self.bench.finishes(size)
        self.settle()

    def said(self, kind: str) -> list[Message]:
        """Return what the device published on one of its topics."""
        return [
            decode(payload, KINDS[kind])
            for topic, payload, _ in self.broker.sent
            if topic.endswith("/" + kind)
        ]

    @property
    def completions(self) -> list[Completion]:
        return [message for message in self.said("complete") if isinstance(message, Completion)]

    @property
    def states(self) -> list[str]:
        return [message.state for message in self.statuses]

    @property
    def statuses(self) -> list[Status]:
        return [message for message in self.said("status") if isinstance(message, Status)]

    @property
    def exit_code(self) -> int | None:
        """The exit code that the session asked for."""
        return self.loop._exit_code

    def _ready(self) -> None:
        self.ready += 1

    def _background(self, call: Call) -> None:
        if self.hold_uploads:
            self.waiting.append(call)
        else:
            call()


def configure(**values: object) -> Configuration:
    return parse_configuration({"fleet": "plant", "tasks": {"digits": {}, "noise": {}}, **values})


def announcement(
    number: int = 1, attempt: int = 1, *, run: str = "run-a", task: str = "digits", **other: object
) -> Announcement:
    values: dict[str, object] = {
        "work": "train",
        "announced_at": 1_700_000_000_000,
        "deadline_seconds": 100.0,
        "bucket": "fleet-bucket",
        "model_key": f"models/{run}/{number - 1}.safetensors",
        "model_sha256": "0" * 64,
        "model_bytes": 8,
        **other,
    }
    return Announcement(run=run, round=number, attempt=attempt, task=task, **values)  # type: ignore[arg-type]


def verdict(number: int = 1, attempt: int = 1, *, counted: bool = True, reason: str = "") -> Verdict:
    return Verdict(run="run-a", round=number, attempt=attempt, counted=counted, reason=reason)


def result(size: int = 8, examples: int = 40) -> Result:
    return Result(
        bytes=size,
        checksum="9" * 32,
        examples=examples,
        examples_of_task=examples,
        metrics={"loss": 0.5},
        download_seconds=0.1,
        evaluate_seconds=0.2,
        train_seconds=0.3,
    )
