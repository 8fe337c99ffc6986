"""The rows of a large fleet for the dashboard's benchmark: devices, a run of many rounds, and an open one."""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import msgspec

from cloud_functions.aws.dynamodb_table import Row, marshal, to_row
from fedgrass.console.topic_feed.topic_subscription import Link, Received, SubscriptionStatus
from fedgrass.federation import messages, topics
from fedgrass.federation.messages import Announcement, Completion, Status
from fedgrass.federation.messages.message_types import WorkMessage, round_id
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.topics import Kind
from fedgrass.local.in_memory.memory_tables import MemoryTables

RUN = "large"
OUTPUTS = {
    "Fleet": "large",
    "RoundsTableName": "rounds",
    "DevicesTableName": "devices",
    "TurnaroundsTableName": "turnarounds",
    "DeadLettersQueueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/dead-letters",
    "HeartbeatSeconds": "60",
}
_SHA256 = "0" * 64
_MODEL_BYTES = 1_000_000
_PER_REQUEST = 25  # rows of a BatchWriteItem
_ROUND_SECONDS = 60


def clients_in_memory() -> Callable[[str], Any]:
    """Return clients of tables in memory, and of a stack without alarms and dead letters."""
    keys = {OUTPUTS["RoundsTableName"]: ("run", "item"), OUTPUTS["DevicesTableName"]: ("device",)}
    clients = {"dynamodb": MemoryTables(keys), "sqs": _NoLetters(), "cloudwatch": _NoAlarms()}
    return clients.__getitem__


class _NoLetters:
    @staticmethod
    def get_queue_attributes(**_: Any) -> dict[str, Any]:
        return {"Attributes": {"ApproximateNumberOfMessages": "0"}}


class _NoAlarms:
    @staticmethod
    def describe_alarms(**_: Any) -> dict[str, Any]:
        return {"MetricAlarms": []}


def name_of(device: int) -> str:
    """Return the name of a device."""
    return f"device-{device:06}"


def write_fleet(dynamodb: Any, outputs: Mapping[str, str], devices: int, rounds: int) -> None:
    """Write a run with ``rounds`` rounds, the last one open and asking all ``devices``."""
    now = round(time.time() * 1000)
    settings = RunSettings(task="digits", rounds=10 * rounds, target_metric="accuracy")
    run = Run(
        name=RUN,
        state=RunState.RUNNING,
        settings=settings,
        started_at=now - rounds * _ROUND_SECONDS * 1000,
        initial_sha256=_SHA256,
        initial_bytes=_MODEL_BYTES,
    )
    made = [_round(number, devices, rounds, now) for number in range(1, rounds + 1)]
    rows: list[Row] = [{**to_row(one), "item": f"round/{one.number:06}/001"} for one in made]
    rows += [_participant(device, rounds, made[-1].opened_at) for device in range(devices)]
    current = msgspec.structs.replace(run, round=rounds, attempt=1)
    rows.append({**to_row(current), "run": RUN, "item": "run"})
    rows += [{"run": partition, "item": RUN, "state": run.state} for partition in ("#runs", "#living")]
    _write(dynamodb, outputs["RoundsTableName"], map(marshal, rows))
    _write(dynamodb, outputs["DevicesTableName"], (_device(device, now) for device in range(devices)))


def _round(number: int, devices: int, rounds: int, now: int) -> Round:
    opened_at = now - (rounds - number) * _ROUND_SECONDS * 1000
    is_open = number == rounds
    loss = 2.3 * 0.99**number
    metrics = {"accuracy": 1 - loss / 2.5, "loss": loss, "local_accuracy": 0.9, "local_loss": 0.3}
    return Round(
        run=RUN,
        number=number,
        attempt=1,
        state=State.OPEN if is_open else State.CLOSED,
        asked=devices,
        needed=devices,
        minimum=1,
        opened_at=opened_at,
        deadline_at=opened_at + 3_600_000,
        base=number - 1,
        base_sha256=_SHA256,
        base_bytes=_MODEL_BYTES,
        announced_batches=1,
        accepted=0 if is_open else devices,
        replied=0 if is_open else devices,
        bytes_up=0 if is_open else devices * _MODEL_BYTES,
        closed_at=0 if is_open else opened_at + 50_000,
        model_sha256="" if is_open else _SHA256,
        model_bytes=0 if is_open else _MODEL_BYTES,
        opening_seconds=1.0,
        averaging_seconds=0.0 if is_open else 3.0,
        metrics={} if is_open else metrics,
    )


def _participant(device: int, number: int, opened_at: int) -> Row:
    asked = Participant(device=name_of(device), state=Participation.ASKED, announced_at=opened_at)
    return {**to_row(asked), "run": RUN, "item": f"participant/{number:06}/001/{name_of(device)}"}


def _device(device: int, now: int) -> dict[str, Any]:
    """Return a row as the heartbeat rule writes it."""
    fields = {
        "device": name_of(device),
        "last_seen": now - device % 60_000,
        "state": "working",
        "tasks": "digits",
        "examples": 100 + device % 900,
        "component_version": f"0.{4 - device % 3}.0",
        "uptime_seconds": 86_400 + device,
        "speaks": "1",
        "works": "train,evaluate,statistics,message",
        "metrics": "accuracy,loss",
    }
    nested = {
        "site": {"S": f"site-{device % 40}"},
        "battery": {"N": str(device % 100)},
        "mains": {"BOOL": True},
    }
    return {**marshal(fields), "attributes": {"M": nested}}


def _write(dynamodb: Any, table: str, items: Iterable[dict[str, Any]]) -> None:
    waiting: list[dict[str, Any]] = []
    for item in items:
        waiting.append({"PutRequest": {"Item": item}})
        if len(waiting) == _PER_REQUEST:
            dynamodb.batch_write_item(RequestItems={table: waiting})
            waiting = []
    if waiting:
        dynamodb.batch_write_item(RequestItems={table: waiting})


class OpenRoundFeed:
    """The messages of an open round, as its devices send them: accepted, progress, the completion.

    Args:
        fleet: name of the fleet.
        devices: how many work.
        number: of the round.
        seconds: over which their messages are spread evenly.
    """

    def __init__(self, fleet: str, devices: int, number: int, seconds: float) -> None:
        rng = random.Random(devices)  # noqa: S311 - repeatable
        moments = []
        for device in range(devices):
            begin = rng.uniform(0, seconds / 2)
            for step, (kind, message) in enumerate(_messages(number)):
                at = begin + step * seconds / 10
                topic = topics.of_device(fleet, name_of(device), kind)
                moments.append((at, topic, messages.encode(message)))
        self._moments = sorted(moments)
        self._next = 0
        self._since = 0.0
        self.late_seconds = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        self._since = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""

    @property
    def status(self) -> SubscriptionStatus:
        """Always connected."""
        return SubscriptionStatus(link=Link.CONNECTED, received=self._next)

    def take(self, seconds: float) -> list[Received]:
        """Return what is due."""
        time.sleep(min(seconds, 0.05))
        begin, now = self._next, time.monotonic() - self._since
        while self._next < len(self._moments) and self._moments[self._next][0] <= now:
            self._next += 1
        due = self._moments[begin : self._next]
        if due:
            self.late_seconds = max(self.late_seconds, now - due[0][0])
        return [Received(round(time.time() * 1000), topic, payload) for _, topic, payload in due]


def _messages(number: int) -> Sequence[tuple[Kind, WorkMessage]]:
    of: dict[str, Any] = {"run": RUN, "round": number, "attempt": 1}
    announcement = Announcement(
        **of,
        work="train",
        task="digits",
        announced_at=round(time.time() * 1000),
        deadline_seconds=3600,
        bucket="models",
        model_key=f"models/{RUN}/{number - 1}.safetensors",
        model_sha256=_SHA256,
        model_bytes=_MODEL_BYTES,
    )
    done = Completion(
        **of,
        round_id=round_id(RUN, number, 1),
        announced_at=announcement.announced_at,
        bytes=_MODEL_BYTES,
        checksum="0" * 32,
        examples=100,
    )
    return [
        (Kind.ANNOUNCE, announcement),
        (Kind.STATUS, Status(**of, state="accepted")),
        (Kind.STATUS, Status(**of, state="progress", progress=0.3)),
        (Kind.STATUS, Status(**of, state="progress", progress=0.7)),
        (Kind.COMPLETE, done),
    ]
