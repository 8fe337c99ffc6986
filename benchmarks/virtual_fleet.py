"""A fleet in virtual time: the real round machine and averager, over ports in memory, and devices that train.

Only time is simulated. The clock jumps from one due event to the next; the cloud functions process every
message as on Lambda, and each update is a real training on the device's data. The work of the cloud takes no
time, so that the figures show who waits for whom.
"""

import base64
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import msgspec

from benchmarks.image_learner import ImageLearner, Model
from cloud_functions import averager
from cloud_functions.monitoring import Level, Metric
from cloud_functions.rounds.start import start_run
from cloud_functions.services import Services
from fedgrass.federation import messages, object_keys
from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.errors import NotYet
from fedgrass.federation.messages import Announcement, Completion, Status
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import LIVING
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import checksum, decode, encode
from fedgrass.local.in_memory.memory_bucket import MemoryBucket
from fedgrass.local.in_memory.memory_ports import (
    MemoryAlarms,
    MemoryDevices,
    MemoryPublisher,
    MemoryThingGroups,
)
from fedgrass.local.in_memory.memory_rounds import MemoryRounds
from fedgrass.local.in_memory.virtual_clock import VirtualClock

FLEET, RUN, TASK = "virtual", "run", "images"
_START = 1_700_000_000_000  # milliseconds since the epoch
_HEARTBEAT_SECONDS = 60.0
_MESSAGE_SECONDS = 0.1  # of any message's way
_RETRY_SECONDS = 1.0
_JITTER = 0.1  # standard deviation of the logarithm of a training's duration


class Speed(NamedTuple):
    """The behaviour of a device."""

    seconds: float  # of a training, on average
    is_dead: bool = False  # accepts work and never replies


class Made(NamedTuple):
    """One global model."""

    seconds: float  # of virtual time since the start
    updates: int  # that were counted so far
    accuracy: float
    staleness: float  # the mean of its updates


class _Silent:
    """A ``Log`` that records nothing but errors."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def __call__(self, text: str, level: Level = "INFO") -> None:
        if level == "ERROR":
            self.errors.append(text)

    @contextmanager
    def about(self, run: str = "", number: int = 0, device: str = "") -> Iterator[None]:  # noqa: ARG002 - the port's signature
        yield

    def measure(self, metric: Metric, value: float) -> None:
        """Record nothing."""


class _Alarms(MemoryAlarms):
    """Alarms, reminders and jobs that become due in virtual time."""

    def __init__(self, fleet: "VirtualFleet") -> None:
        super().__init__()
        self._fleet = fleet

    def set(self, alarm: Alarm) -> None:
        if alarm not in self.standing():
            super().set(alarm)
            left = max(0.0, (alarm.at - self._fleet.clock.now) / 1000)
            self._fleet.clock.after(left, partial(self._ring, alarm))

    def _ring(self, alarm: Alarm) -> None:
        if alarm in self.standing():
            self.cancel(alarm)
            self._fleet.send({"alarm": msgspec.to_builtins(alarm)})

    def hand_over(self, job: Job) -> None:
        self._fleet.send({"job": msgspec.to_builtins(job)})

    def remind(self, reminder: Reminder, seconds: int) -> None:
        self._fleet.send({"reminder": msgspec.to_builtins(reminder)}, seconds)


class _Publisher(MemoryPublisher):
    """Delivers announcements to the fleet's devices."""

    def __init__(self, hear: Callable[[str, bytes], None]) -> None:
        super().__init__()
        self._hear = hear

    def publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        for topic, payload in messages:
            if topic.endswith("/announce"):
                self._hear(topic.split("/")[3], payload)


class VirtualFleet:
    """One run over a fleet of simulated devices.

    Args:
        learner: the data of the devices and their training.
        speeds: of each device.
        rate: the learning rate.
        seed: draws the durations of trainings.
        settings: of the run, without the task.
    """

    def __init__(
        self, learner: ImageLearner, speeds: list[Speed], rate: float, seed: int, settings: dict[str, Any]
    ) -> None:
        self.clock = VirtualClock(_START)
        self.made: list[Made] = []
        self.rounds = MemoryRounds()
        self._learner = learner
        self._rate = rate
        self._dice = random.Random(seed)  # noqa: S311 - repeatable
        self._speeds = {f"thing-{place:03}": speed for place, speed in enumerate(speeds)}
        self._places = {name: place for place, name in enumerate(self._speeds)}
        self._settings = parse_settings({"task": TASK, **settings})
        self._working: dict[str, Announcement] = {}
        self._done: dict[str, tuple[Announcement, bytes]] = {}  # the last completion of each device
        self._bucket, self._devices, self._log = MemoryBucket(), MemoryDevices(), _Silent()
        self._services = Services(
            fleet=FLEET,
            rounds=self.rounds,
            devices=self._devices,
            thing_groups=MemoryThingGroups(),
            bucket=self._bucket,
            publisher=_Publisher(self._hear),
            alarms=_Alarms(self),
            now=lambda: self.clock.now,
            log=self._log,
            lease_seconds=60,
        )

    def play(self, longest: float, updates: int) -> list[Made]:
        """Play the run; return the models in order.

        Args:
            longest: virtual seconds to play at most.
            updates: ends the play once the models have counted this number of updates.
        """
        model = self._learner.initial()
        self._bucket.write(object_keys.model(RUN, 0), encode(model))
        self._heartbeats()
        start_run(self._services, RUN, self._settings)
        until = _START + round(longest * 1000)
        while self.clock.now < until and self.is_running() and self._counted() < updates:
            self.clock.run_until(min(until, self.clock.now + 10_000), most=1_000_000)
        if self._log.errors:
            raise RuntimeError(self._log.errors[0])
        return self.made

    def _counted(self) -> int:
        return self.made[-1].updates if self.made else 0

    def is_running(self) -> bool:
        """Return whether the run is still to make models."""
        run = self.rounds.run(RUN)
        return run is not None and run.state in LIVING

    def send(self, body: dict[str, Any], seconds: float = 0.0) -> None:
        """Send a message to the averager, which it takes after its way and some seconds."""
        self.clock.after(seconds + _MESSAGE_SECONDS, partial(self._take, msgspec.json.encode(body).decode()))

    def _take(self, body: str) -> None:
        """Let the averager process a message; retry it later if another message is in its way."""
        try:
            if run := averager.take(self._services, body):
                averager.advance(self._services, run)
        except NotYet:
            self.clock.after(_RETRY_SECONDS, partial(self._take, body))
        self._look()

    def _look(self) -> None:
        """Measure the models that were made since the last look."""
        run = self.rounds.run(RUN)
        while run and run.round > len(self.made):
            number = len(self.made) + 1
            attempts = (self.rounds.round(RUN, number, attempt) for attempt in range(1, 100))
            closed = next((one for one in attempts if one is None or one.state is State.CLOSED), None)
            if closed is None:
                return
            counted = self._counted() + closed.good
            model: Model = dict(decode(self._bucket.objects[object_keys.model(RUN, number)]))
            seconds = (closed.closed_at - _START) / 1000
            staleness = getattr(closed, "staleness_mean", 0.0)
            self.made.append(Made(seconds, counted, self._learner.accuracy(model), staleness))

    # ------------------------------------------------------------ devices
    def _heartbeats(self) -> None:
        for name in self._speeds:
            self._devices.heartbeat(name, self.clock.now, TASK)
        self.clock.after(_HEARTBEAT_SECONDS, self._heartbeats)

    def _hear(self, device: str, payload: bytes) -> None:
        """Deliver a message on a device's announce topic."""
        found = messages.decode_announce(payload)
        if isinstance(found, Announcement):
            self.clock.after(_MESSAGE_SECONDS, partial(self._accept, device, found))

    def _accept(self, device: str, work: Announcement) -> None:
        """Begin the work, in place of any other; repeat the reply to work that is done."""
        answered, reply = self._done.get(device, (None, b""))
        if answered == work:
            self._say(device, Kind.COMPLETE, reply)
            return
        if self._is_old(device, work):
            return
        self._working[device] = work
        accepted = Status(run=work.run, round=work.round, attempt=work.attempt, state="accepted")
        self._say(device, Kind.STATUS, messages.encode(accepted))
        speed = self._speeds[device]
        if not speed.is_dead:
            seconds = speed.seconds * self._dice.lognormvariate(0, _JITTER)
            self.clock.after(seconds, partial(self._finish, device, work))

    def _is_old(self, device: str, work: Announcement) -> bool:
        current = self._working.get(device)
        return current is not None and (current.round, current.attempt) >= (work.round, work.attempt)

    def _finish(self, device: str, work: Announcement) -> None:
        """Train, upload and reply, unless other work has come in between."""
        if self._working.get(device) != work:
            return
        start = dict(decode(self._bucket.objects[work.model_key]))
        trained, examples = self._learner.train(self._places[device], start, self._rate)
        data = encode(trained)
        self._bucket.write(object_keys.update(device, work.run, work.round, work.attempt), data)
        completion = Completion(
            run=work.run,
            round=work.round,
            attempt=work.attempt,
            round_id=messages.round_id(work.run, work.round, work.attempt),
            announced_at=work.announced_at,
            bytes=len(data),
            checksum=checksum(data),
            examples=examples,
        )
        self._done[device] = work, messages.encode(completion)
        self._say(device, Kind.COMPLETE, self._done[device][1])

    def _say(self, device: str, kind: Kind, payload: bytes) -> None:
        body = {
            "payload": base64.b64encode(payload).decode(),
            "device": device,
            "kind": kind,
            "client": device,
            "received_at": self.clock.now,
        }
        self.send(body)
