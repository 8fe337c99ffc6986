"""A fleet for tests: the real cloud functions over ports in memory, and devices that tests control."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud_functions import averager
from cloud_functions.aws.sqs_batch import each_record
from cloud_functions.rounds import run_actions
from cloud_functions.rounds.start import start_run
from cloud_functions.services import Services
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.aggregation.sharding_plan import Scale
from fedgrass.federation.messages import Announcement, Completion, RoundChange, Status, Verdict
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.ports import Alarms, Bucket, DeviceDirectory, Publisher, RoundStore, ThingGroups
from fedgrass.federation.rounds import Participant, Participation, Round, announced_at
from fedgrass.federation.runs import Run
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import Arrays, checksum, decode, encode
from tests.fakes.memory_cloud import (
    CallCounter,
    Counted,
    Crash,
    MemoryAlarms,
    MemoryBucket,
    MemoryDevices,
    MemoryPublisher,
    MemoryRounds,
    MemoryThingGroups,
)
from tests.fakes.memory_log import MemoryLog

FLEET = "garden"
RUN = "run-1"
INITIAL: Arrays = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.zeros(3, dtype=np.float64),
    "batches": np.array(0, dtype=np.int64),
    "nothing": np.zeros((0, 4), dtype=np.float32),
}


def unrepaired(fleet: "SmallFleet") -> dict[object, object]:
    """Return the rows of the table, with runs as they were before a repair noted itself in their history."""
    rows: dict[object, object] = {}
    for key, row in fleet.rounds.rows().items():
        kept = row
        if isinstance(row, Run) and row.history[-1].action == "repair":
            kept = msgspec.structs.replace(row, actions=row.actions - 1, history=row.history[:-1])
        rows[key] = kept
    return rows


class SmallFleet:
    """Some devices, one run and the cloud; the clock changes only when a test moves it."""

    def __init__(
        self,
        devices: int = 3,
        *,
        lease_seconds: float = 60,
        scale: Scale | None = None,
        initial: Arrays = INITIAL,
        **settings: object,
    ) -> None:
        self.now = 1_700_000_000_000
        self.names = [f"thing-{number}" for number in range(devices)]
        self.rounds, self.bucket, self.devices = MemoryRounds(), MemoryBucket(), MemoryDevices()
        self.publisher, self.alarms = MemoryPublisher(), MemoryAlarms()
        self.thing_groups = MemoryThingGroups()
        self.journal = MemoryLog()
        self.log = self.journal.lines
        self.counter = CallCounter()
        self._held: list[Mapping[str, object]] | None = None  # messages of the batch being collected
        self.lease_seconds = lease_seconds
        self.scale = scale or Scale()
        self.tasks = "digits"  # of every device, comma-separated
        self.settings: RunSettings = parse_settings(
            {"task": "digits", "rounds": 2, "evaluate_last": False, **settings}
        )
        self.cloud = self._worker()
        self.bucket.write(object_keys.model(RUN, 0), encode(initial))
        self.heartbeats()

    def _worker(self) -> Services:
        ports: list[Any] = [
            Counted(port, self.counter)
            for port in (
                self.rounds,
                self.devices,
                self.bucket,
                self.publisher,
                self.alarms,
                self.thing_groups,
            )
        ]
        return Services(
            fleet=FLEET,
            rounds=cast(RoundStore, ports[0]),
            devices=cast(DeviceDirectory, ports[1]),
            bucket=cast(Bucket, ports[2]),
            publisher=cast(Publisher, ports[3]),
            alarms=cast(Alarms, ports[4]),
            thing_groups=cast(ThingGroups, ports[5]),
            now=lambda: self.now,
            log=self.journal,
            lease_seconds=self.lease_seconds,
            scale=self.scale,
        )

    def heartbeats(self) -> None:
        """Write a heartbeat of every device."""
        for name in self.names:
            self.devices.heartbeat(name, self.now, self.tasks)

    def start(self) -> Run:
        return start_run(self.cloud, RUN, self.settings)

    def act(self, action: str, name: str = RUN, **event: object) -> Run:
        """Perform an action on a run, as an operator does."""
        return run_actions.act(self.cloud, {"action": action, "run": name, **event})

    def run(self, name: str = RUN) -> Run:
        run = self.rounds.run(name)
        assert run is not None
        return run

    def newest(self, name: str = RUN) -> Round:
        run = self.run(name)
        newest = self.rounds.round(name, run.round, run.attempt)
        assert newest is not None
        return newest

    def parts(self, of: Round | None = None) -> dict[str, Participation]:
        """Return the state of each participant of a round."""
        return {part.device: part.state for part in self.rounds.participants(of or self.newest())}

    def part(self, device: str, of: Round | None = None) -> Participant:
        """Return one participant of a round."""
        part = self.rounds.participant(of or self.newest(), device)
        assert part is not None
        return part

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with heartbeats and without deliveries."""
        self.now += round(seconds * 1000)
        self.heartbeats()

    def upload(self, device: str, of: Round, update: Arrays | bytes) -> bytes:
        data = update if isinstance(update, bytes) else encode(update)
        self.bucket.write(object_keys.update(device, of.run, of.number, of.attempt), data)
        return data

    def _announced_at(self, device: str, of: Round) -> int:
        part = self.rounds.participant(of, device)
        return announced_at(of, part) if part else of.opened_at

    def completion(self, of: Round, data: bytes, device: str = "", **changes: object) -> bytes:
        """Return a completion as JSON, with ``changes``, which may be invalid."""
        reply = Completion(
            run=of.run,
            round=of.number,
            attempt=of.attempt,
            round_id=messages.round_id(of.run, of.number, of.attempt),
            announced_at=self._announced_at(device, of),
            bytes=len(data),
            checksum=checksum(data),
            examples=10,
            metrics={"loss": 0.25},
            train_seconds=1.5,
        )
        return msgspec.json.encode({**msgspec.to_builtins(reply), **changes})

    def reply(self, device: str, of: Round | None = None, value: float = 1.0, **changes: object) -> bool:
        """Upload an update full of ``value`` and send its completion."""
        of = of or self.newest()
        data = self.upload(device, of, update_full_of(value))
        return self.say(device, Kind.COMPLETE, self.completion(of, data, device, **changes))

    def status(self, device: str, state: str, of: Round | None = None, reason: str = "") -> bool:
        of = of or self.newest()
        said = Status(run=of.run, round=of.number, attempt=of.attempt, state=cast(Any, state), reason=reason)
        return self.say(device, Kind.STATUS, messages.encode(said))

    def say(self, device: str, kind: Kind, payload: bytes, client: str | None = None) -> bool:
        """Deliver a device's message in the reply rule's format; return False if it has to be retried."""
        body = {
            "payload": base64.b64encode(payload).decode(),
            "device": device,
            "kind": kind,
            "client": device if client is None else client,
            "received_at": self.now,
        }
        return self.deliver(body)

    def ring(self) -> None:
        """Deliver the alarms that are due, once each."""
        for alarm in self.alarms.ring(self.now):
            self.deliver(message_of(alarm))

    def remind(self) -> list[Reminder]:
        """Deliver the pending reminders, once each, and return them."""
        due, self.alarms.reminders = self.alarms.reminders, []
        for reminder, _seconds in due:
            self.deliver(message_of(reminder))
        return [reminder for reminder, _seconds in due]

    def work(self) -> int:
        """Deliver the jobs that averagers hand over until none are left; return their number."""
        done = 0
        while self.alarms.jobs:
            job = self.alarms.jobs.pop(0)
            self.deliver({"job": msgspec.to_builtins(job)})
            done += 1
        return done

    def look(self, seconds: float) -> list[Reminder]:
        """Let time pass without heartbeats, then deliver what is due, once each."""
        self.now += round(seconds * 1000)
        self.ring()
        return self.remind()

    def deliver(self, body: Mapping[str, object]) -> bool:
        if self._held is not None:
            self._held.append(body)
            return True
        return not self.deliver_batch([body])

    @contextmanager
    def as_batch(self) -> Iterator[None]:
        """Deliver the messages that are sent meanwhile as one batch at the end."""
        held: list[Mapping[str, object]] = []
        self._held = held
        yield
        self._held = None
        assert not self.deliver_batch(held), "messages have to be retried"

    def deliver_batch(self, bodies: Sequence[Mapping[str, object]]) -> list[int]:
        """Deliver messages as one batch; return the positions of those that have to be retried."""
        records = [{"messageId": str(n), "body": json.dumps(body)} for n, body in enumerate(bodies)]
        answer = each_record(
            {"Records": records},
            self.journal,
            partial(averager.take, self.cloud),
            partial(averager.advance, self.cloud),
            together=partial(averager.take_together, self.cloud),
        )
        failures = [line for line in self.log if line.startswith("failed:")]
        assert not failures, failures
        return [int(failed["itemIdentifier"]) for failed in answer["batchItemFailures"]]

    def model(self, number: int, name: str = RUN) -> dict[str, NDArray[np.generic]]:
        """Return the arrays of the model of a round."""
        return decode(self.bucket.objects[object_keys.model(name, number)])

    def holds(self, number: int, value: float) -> bool:
        """Return whether the model of a round is full of ``value``."""
        model, expected = self.model(number), update_full_of(value)
        return model.keys() == expected.keys() and all(
            np.array_equal(model[name], expected[name]) for name in expected
        )

    def told(self, name: str = RUN) -> list[RoundChange]:
        """Return the changes published on the run's topic."""
        topic = topics.of_run(FLEET, name)
        return [messages.decode(text, RoundChange) for text in self.publisher.on(topic)]

    def told_of(self, device: str) -> list[str]:
        return [change.text for change in self.told() if change.device == device]

    def heard(self, device: str) -> list[messages.AnnounceMessage]:
        """Return what was published on a device's announce topic."""
        topic = topics.of_device(FLEET, device, Kind.ANNOUNCE)
        return [messages.decode_announce(text) for text in self.publisher.on(topic)]

    def announced(self, device: str) -> list[Announcement]:
        """Return the announcements that were published to a device."""
        return [message for message in self.heard(device) if isinstance(message, Announcement)]

    def verdicts(self, device: str) -> list[Verdict]:
        return [message for message in self.heard(device) if isinstance(message, Verdict)]


def update_full_of(value: float) -> dict[str, Any]:
    return {name: np.full_like(array, value) for name, array in INITIAL.items()}


def message_of(said: Alarm | Reminder) -> dict[str, object]:
    """Return the message of an alarm or a reminder, as the averager receives it."""
    return {type(said).__name__.lower(): msgspec.to_builtins(said)}


Fleet = TypeVar("Fleet", bound=SmallFleet)


def crash_at_every_call(fleet: Fleet, act: Callable[[Fleet], object]) -> int:
    """Repeat an action that crashes at its first call of a port, then at its second, until it succeeds.

    Returns:
        The number of crashes.
    """
    crashes = 0
    while True:
        fleet.counter.plan_crash(call=crashes + 1)
        try:
            act(fleet)
        except Crash:
            crashes += 1
            continue
        break
    fleet.counter.forget_plans()
    return crashes
