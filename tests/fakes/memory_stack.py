"""A stack in memory for the dashboard's data: tables whose reads are counted, a feed, and what may fail."""

from collections.abc import Callable, Sequence
from typing import Any, Self

from botocore.exceptions import ClientError, EndpointConnectionError

from cloud_functions.aws.dynamodb_table import marshal, to_row
from fedgrass.console.topic_feed.topic_subscription import Link, Received, SubscriptionStatus
from fedgrass.federation import messages, topics
from fedgrass.federation.messages.message_types import Message
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import LIVING, Run, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.topics import Kind
from fedgrass.local.in_memory.memory_tables import MemoryTables

NOW = 1_700_000_000_000
FLEET = "orchard"
OUTPUTS = {
    "Fleet": FLEET,
    "RoundsTableName": "rounds",
    "DevicesTableName": "devices",
    "TurnaroundsTableName": "turnarounds",
    "DeadLettersQueueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/dead-letters",
    "HeartbeatSeconds": "60",
}


class ScriptedFeed:
    """A feed whose messages a test chooses."""

    def __init__(self) -> None:
        self.waiting: list[Received] = []
        self.status = SubscriptionStatus(link=Link.CONNECTED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.waiting.clear()

    def take(self, seconds: float) -> list[Received]:  # noqa: ARG002 - the feed's signature
        taken, self.waiting = self.waiting, []
        return taken


class MemoryStack:
    """The tables of a stack, and its clients.

    ``now`` is the clock in seconds; ``is_gone`` lets every request fail as if there were no connection.
    """

    def __init__(self) -> None:
        self.now = NOW / 1000
        self.is_gone = False
        self.refused: set[str] = set()  # services that the credentials may not use
        self.tables = MemoryTables({"rounds": ("run", "item"), "devices": ("device",)})
        self.requests: list[tuple[str, str, dict[str, Any]]] = []  # service, operation, arguments
        self.alarms: list[dict[str, Any]] = []
        self.dead_letters = 0
        self.turnarounds: list[dict[str, Any]] | None = []  # rows of one device; None: no index

    def clock(self) -> float:
        return self.now

    def clients(self, service: str) -> Any:
        return _Client(self, service)

    def put_run(self, name: str, state: RunState = RunState.RUNNING, **fields: Any) -> Run:
        settings = RunSettings(task="digits", rounds=5)
        base = {"settings": settings, "started_at": NOW, "initial_sha256": "0" * 64, "initial_bytes": 1}
        run = Run(name=name, state=state, **{**base, **fields})
        self._put({**to_row(run), "run": name, "item": "run"})
        self._put({"run": "#runs", "item": name, "state": state})
        if state in LIVING:
            self._put({"run": "#living", "item": name, "state": state})
        else:
            self.tables.delete_item(TableName="rounds", Key=marshal({"run": "#living", "item": name}))
        return run

    def put_round(self, run: str, number: int, state: State = State.CLOSED, **fields: Any) -> Round:
        base: dict[str, Any] = {
            "attempt": 1,
            "asked": 2,
            "needed": 2,
            "minimum": 1,
            "opened_at": NOW,
            "deadline_at": NOW,
        }
        base |= {"base": number - 1, "base_sha256": "0" * 64, "base_bytes": 1_000_000}
        round_ = Round(run=run, number=number, state=state, **{**base, **fields})
        self._put({**to_row(round_), "item": f"round/{number:06}/{round_.attempt:03}"})
        return round_

    def put_participants(self, round_: Round, states: dict[str, Participation], **fields: Any) -> None:
        for device, state in states.items():
            part = Participant(device=device, state=state, announced_at=NOW, **fields)
            item = f"participant/{round_.number:06}/{round_.attempt:03}/{device}"
            self._put({**to_row(part), "run": round_.run, "item": item})

    def put_device(self, name: str, last_seen: int = NOW, **columns: object) -> None:
        row = {"device": name, "last_seen": last_seen, "tasks": "digits", "examples": 7, "state": "idle"}
        self.tables.put_item(
            TableName="devices", Item=marshal({**row, "component_version": "1.0", **columns})
        )

    def remove_device(self, name: str) -> None:
        self.tables.delete_item(TableName="devices", Key=marshal({"device": name}))

    def _put(self, row: dict[str, Any]) -> None:
        self.tables.put_item(TableName="rounds", Item=marshal(row))


class _Client:
    def __init__(self, stack: MemoryStack, service: str) -> None:
        self._stack, self._service = stack, service

    def get_paginator(self, _operation: str) -> "_Client":
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        if self._stack.turnarounds is None:
            answer: Any = {"Error": {"Code": "ValidationException", "Message": "no index"}}
            raise ClientError(answer, "Query")
        return [{"Items": [marshal(row) for row in self._stack.turnarounds]}]

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            self._stack.requests.append((self._service, operation, arguments))
            if self._stack.is_gone:
                raise EndpointConnectionError(endpoint_url="https://dynamodb.eu-west-1.amazonaws.com")
            if self._service in self._stack.refused:
                answer: Any = {"Error": {"Code": "AccessDenied", "Message": "not authorized"}}
                raise ClientError(answer, operation)
            if self._service == "dynamodb":
                return getattr(self._stack.tables, operation)(**arguments)
            if self._service == "cloudwatch":
                return {"MetricAlarms": self._stack.alarms}
            if operation == "receive_message":
                return {}
            return {"Attributes": {"ApproximateNumberOfMessages": str(self._stack.dead_letters)}}

        return call


def received(thing: str, kind: Kind, message: Message, at: int = NOW) -> Received:
    """Return a message on a device's topic."""
    return Received(at, topics.of_device(FLEET, thing, kind), messages.encode(message))


def everything(read_next: Callable[[], float], stack: MemoryStack, turns: int = 400) -> Sequence[float]:
    """Call ``read_next`` until nothing is due, with a clock that jumps over the pauses; return the pauses."""
    pauses = []
    for _ in range(turns):
        pause = read_next()
        pauses.append(pause)
        if pause == 0.2:
            break
        stack.now += pause
    return pauses
