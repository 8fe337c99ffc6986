"""The cloud of a simulation: the real averager over ports in memory, on the virtual clock.

Each message is processed as on Lambda, at the moment at which it arrives: the cloud's own work takes no
virtual time. Its several queues are one list of due messages. A message that fails, or has to wait for
another (``NotYet``), is delivered again with the back-off of the real queue.
"""

import base64
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial

import msgspec

from cloud_functions import averager
from cloud_functions.monitoring import Level, Metric
from cloud_functions.rounds import hellos, run_actions
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages import Announcement, Verdict, decode_announce
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.ports import DeviceDirectory
from fedgrass.federation.rounds import ENDED, Event, Round
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.topics import Kind, parse_device_topic
from fedgrass.local.in_memory.memory_bucket import MemoryBucket
from fedgrass.local.in_memory.memory_ports import MemoryAlarms, MemoryThingGroups
from fedgrass.local.in_memory.memory_rounds import MemoryRounds
from fedgrass.local.in_memory.virtual_clock import VirtualClock

FLEET = "simulated"
_LEASE_SECONDS = 60
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 5, 900  # as in cloud_functions/aws/sqs_batch.py
_MOST_TRIES = 10
_DEVICE_TOPICS = f"fedgrass/{FLEET}/clients/"
_decoded = lru_cache(maxsize=256)(decode_announce)  # a round's announcement is the same for all devices

Receive = Callable[[str, Announcement | Verdict], None]  # takes the name of the device


class VirtualRounds(MemoryRounds):
    """The table of rounds, which notes the rounds that have ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[Round] = []

    def move(self, current: Round, event: Event, **changes: object) -> Round:
        """Move a round to its next state; see ``RoundStore``."""
        moved = super().move(current, event, **changes)
        if moved.state in ENDED:
            self.ended.append(moved)
        return moved


class VirtualBucket(MemoryBucket):
    """The bucket, from which an update is removed once no round can need it any more.

    Args:
        keep_one_more: whether the updates of the round before the last one are kept too: in a buffered run, a
            reply may be counted while the next buffer opens.
    """

    def __init__(self, *, keep_one_more: bool) -> None:
        super().__init__(FLEET)
        self.lanes = 1  # more threads would not read faster from memory
        self._keep_one_more = keep_one_more
        self._counted: list[str] = []
        self._over: list[str] = []

    def verdict(self, device: str, verdict: Verdict) -> None:
        """Note the verdict on an update: a refused one is removed, a counted one when its round has ended."""
        key = object_keys.update(device, verdict.run, verdict.round, verdict.attempt)
        if not verdict.counted:
            self.remove(key)
        elif key in self.objects:
            self._counted.append(key)

    def round_ended(self, ended: Round, *, oldest: int) -> None:
        """Remove what an ended round leaves behind.

        Args:
            ended: the round.
            oldest: number of the oldest model that a device may still start from.
        """
        over, self._counted = self._counted, []
        if self._keep_one_more:
            over, self._over = self._over, over
        for key in over:
            self.remove(key)
        drafts = f"drafts/{ended.run}/"
        former = [key for key in self.objects if key.startswith((drafts, f"models/{ended.run}/"))]
        for key in former:
            number = key.removeprefix(drafts).removeprefix(f"models/{ended.run}/")
            number = number.partition("-" if key.startswith(drafts) else ".")[0]
            limit = ended.number if key.startswith(drafts) else oldest
            if number.isdecimal() and 0 < int(number) < limit:
                self.remove(key)


class _VirtualAlarms(MemoryAlarms):
    """Alarms, reminders and jobs, which arrive in virtual time."""

    def __init__(self, clock: VirtualClock, deliver: Callable[[dict[str, object], float], None]) -> None:
        super().__init__()
        self._clock = clock
        self._deliver = deliver

    def set(self, alarm: Alarm) -> None:
        if alarm not in self._set:
            super().set(alarm)
            self._clock.at(alarm.at, partial(self._ring, alarm))

    def _ring(self, alarm: Alarm) -> None:
        if alarm in self._set:
            self.cancel(alarm)
            self._deliver({"alarm": msgspec.to_builtins(alarm)}, 0)

    def hand_over(self, job: Job) -> None:
        self._deliver({"job": msgspec.to_builtins(job)}, 0)

    def remind(self, reminder: Reminder, seconds: int) -> None:
        self._deliver({"reminder": msgspec.to_builtins(reminder)}, seconds)


class _VirtualPublisher:
    """MQTT, from the cloud to the virtual devices; messages to operators are dropped."""

    def __init__(self, bucket: VirtualBucket, receive: Receive) -> None:
        self._bucket = bucket
        self._receive = receive

    def publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        for topic, payload in messages:
            if not topic.startswith(_DEVICE_TOPICS):
                continue
            device, _ = parse_device_topic(topic)
            message = _decoded(payload)
            if isinstance(message, Verdict):
                self._bucket.verdict(device, message)
            if isinstance(message, Announcement | Verdict):
                self._receive(device, message)


class _SilentLog:
    """A ``Log`` that keeps the latest error, for the user."""

    def __init__(self) -> None:
        self.error = ""

    def __call__(self, text: str, level: Level = "INFO") -> None:
        if level == "ERROR":
            self.error = text

    @contextmanager
    def about(self, run: str = "", number: int = 0, device: str = "") -> Iterator[None]:  # noqa: ARG002 - the port's signature
        yield

    def measure(self, metric: Metric, value: float) -> None:
        """Drop a value: no one looks at the metrics of a simulation."""


class VirtualCloud:
    """The averager and the initiator, with their ports.

    Args:
        clock: the virtual clock.
        devices: the devices table.
        receive: called with each message to a device when it is published.
        keep_one_more: see VirtualBucket.
    """

    def __init__(
        self, clock: VirtualClock, devices: DeviceDirectory, receive: Receive, *, keep_one_more: bool
    ) -> None:
        self.clock = clock
        self.rounds = VirtualRounds()
        self.bucket = VirtualBucket(keep_one_more=keep_one_more)
        self._log = _SilentLog()
        self._services = Services(
            fleet=FLEET,
            rounds=self.rounds,
            devices=devices,
            thing_groups=MemoryThingGroups(),
            bucket=self.bucket,
            publisher=_VirtualPublisher(self.bucket, receive),
            alarms=_VirtualAlarms(clock, self._deliver),
            now=lambda: clock.now,
            log=self._log,
            lease_seconds=_LEASE_SECONDS,
        )

    def start(self, run: str, settings: RunSettings, model: bytes) -> Run:
        """Start a run as the initiator does. Raises SettingsError."""
        self.bucket.write(object_keys.model(run, 0), model)
        event = {"action": "start", "run": run, "id": "simulation", "settings": msgspec.to_builtins(settings)}
        return run_actions.act(self._services, event)

    def reply(self, device: str, kind: Kind, payload: bytes, latency: float) -> None:
        """Take a message of a device about its work, which arrives after the latency of its link."""
        self.clock.after(latency, partial(self._receive, device, kind, payload))

    def hello(self, device: str, latency: float) -> None:
        """Take the hello of a device that was turned on."""
        self.clock.after(latency, partial(hellos.answer_hello, self._services, device))

    def _receive(self, device: str, kind: Kind, payload: bytes) -> None:
        body = {
            "payload": base64.b64encode(payload).decode(),
            "device": device,
            "kind": kind,
            "client": device,
            "received_at": self.clock.now,
        }
        self._process(msgspec.json.encode(body).decode(), 1)

    def _deliver(self, body: dict[str, object], seconds: float) -> None:
        """Send a message of the cloud to itself."""
        self.clock.after(seconds, partial(self._process, msgspec.json.encode(body).decode(), 1))

    def _process(self, body: str, tries: int) -> None:
        """Process a message as the averager's handler does; deliver it again later if it has to wait."""
        try:
            if affected := averager.take(self._services, body):
                averager.advance(self._services, affected)
        except Exception as error:  # as the handler does; most are NotYet
            if tries == _MOST_TRIES:
                reason = (
                    str(error) if isinstance(error, FedgrassError) else f"{type(error).__name__}: {error}"
                )
                message = f"the cloud could not process a message in {_MOST_TRIES} tries: {reason}"
                raise FedgrassError(message) from error
            pause = min(_FIRST_RETRY_SECONDS * 2 ** (tries - 1), _LONGEST_RETRY_SECONDS)
            self.clock.after(pause, partial(self._process, body, tries + 1))

    @property
    def last_error(self) -> str:
        """The latest error in the log of the functions; empty if there was none."""
        return self._log.error
