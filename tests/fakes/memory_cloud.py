"""Every port of the cloud in memory, with the contracts of fedgrass/federation/ports.py."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, ParamSpec, TypeVar, cast

import msgspec
import numpy as np
from botocore.exceptions import ClientError

from cloud_functions.aws.dynamodb_table import marshal, to_row
from fedgrass.federation import round_metrics
from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.errors import LostRace, UpdateRefused
from fedgrass.federation.messages import Completion
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.rounds import (
    TRANSITIONS,
    Event,
    Participant,
    Participation,
    Round,
    State,
    before,
)
from fedgrass.federation.runs import LIVING, Progress, Run, RunState
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.sampling import anyone
from fedgrass.federation.weights import Layout, checksum, read_layout

P = ParamSpec("P")
T = TypeVar("T")

RoundKey = tuple[str, int, int]
ParticipantKey = tuple[str, int, int, str]


LARGEST_ROW = 400 * 1024  # bytes: DynamoDB's limit of an item


class Rows(dict[Any, Any]):
    """Rows by their keys; rows too large for DynamoDB are refused with its error."""

    def __setitem__(self, key: Any, row: msgspec.Struct) -> None:
        # A row takes fewer bytes in DynamoDB than twice its JSON: rows far below the limit are not measured.
        if len(msgspec.json.encode(row)) * 2 > LARGEST_ROW and row_size(marshal(to_row(row))) > LARGEST_ROW:
            text = "Item size to update has exceeded the maximum allowed size"
            answer = {"Error": {"Code": "ValidationException", "Message": text}}
            raise ClientError(cast(Any, answer), "UpdateItem")
        super().__setitem__(key, row)

    def setdefault(self, key: Any, row: Any = None) -> Any:
        if key not in self:
            self[key] = row
        return self[key]


def row_size(item: Mapping[str, Any]) -> int:
    """Return the size in bytes that DynamoDB counts for an item in its typed form."""
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: Mapping[str, Any]) -> int:
    ((kind, inner),) = value.items()
    if kind == "S":
        return len(inner.encode())
    if kind == "N":
        return len(inner) // 2 + 2
    if kind == "L":
        return 3 + sum(1 + _value_size(each) for each in inner)
    return 1  # a boolean or null


class MemoryRounds:
    """The ``RoundStore`` as dictionaries under one lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._runs: dict[str, Run] = Rows()
        self._rounds: dict[RoundKey, Round] = Rows()
        self._participants: dict[ParticipantKey, Participant] = Rows()
        self._settled: set[str] = set()
        self.items_read = 0  # by reads of many participants

    def create_run(self, run: Run) -> None:
        with self._lock:
            _expect(run.name not in self._runs)
            self._runs[run.name] = run

    def run(self, name: str) -> Run | None:
        return self._runs.get(name)

    def runs(self) -> dict[str, RunState]:
        with self._lock:
            return {name: run.state for name, run in sorted(self._runs.items())}

    def living(self) -> list[str]:
        return [name for name, state in self.runs().items() if state in LIVING]

    def change_run(self, run: Run, **changes: object) -> Run:
        with self._lock:
            stored = self._where_it_stands(run)
            _expect("actions" not in changes or stored.actions == run.actions)
            self._runs[run.name] = msgspec.structs.replace(stored, **changes)
            if "state" in changes:
                self._settled.discard(run.name)
            return self._runs[run.name]

    def ask(self, round_: Round, devices: Sequence[str]) -> None:
        with self._lock:
            for device in devices:
                asked = Participant(device=device, state=Participation.ASKED, announced_at=round_.opened_at)
                self._participants.setdefault((*_key(round_), device), asked)

    def open_round(self, run: Run, round_: Round, progress: Progress) -> None:
        with self._lock:
            _expect(_key(round_) not in self._rounds)
            stored = self._where_it_stands(run)
            self._rounds[_key(round_)] = round_
            self._runs[run.name] = msgspec.structs.replace(
                stored, round=round_.number, attempt=round_.attempt, progress=progress, waiting_since=0
            )

    def replace(
        self, round_: Round, silent: Sequence[Participant], devices: Sequence[str], *, replaced: int, at: int
    ) -> None:
        with self._lock:
            stored = self._in_state(round_, State.OPEN)
            _expect((stored.batches, stored.replaced) == (round_.batches, round_.replaced))
            parts = [self._participants[*_key(round_), part.device] for part in silent]
            _expect(all(part.state is Participation.ASKED for part in parts))
            _expect(not any((*_key(round_), device) in self._participants for device in devices))
            for part in parts:
                self._move(round_, part, Participation.SILENT)
            batch = stored.batches + 1
            for device in devices:
                self._participants[*_key(round_), device] = Participant(
                    device=device, state=Participation.ASKED, announced_at=at, batch=batch
                )
            changes = {"asked": stored.asked + len(devices), "batches": batch} if devices else {}
            self._change(round_, replaced=stored.replaced + replaced + len(silent), **changes)

    def round(self, run: str, number: int, attempt: int) -> Round | None:
        return self._rounds.get((run, number, attempt))

    def mark_announced(self, round_: Round, at: int) -> None:
        with self._lock:
            stored = self._stored(round_)
            _expect(stored.batches == round_.batches)
            _expect(stored.announced_batches == round_.announced_batches)
            self._change(round_, announced_batches=round_.batches)
            if not round_.announced_batches:
                self._change(round_, opening_seconds=(at - round_.choosing_at) / 1000)

    def move(self, current: Round, event: Event, **changes: object) -> Round:
        target = TRANSITIONS[current.state, event]
        with self._lock:
            stored = self._stored(current)
            _expect((stored.state, stored.fence) == (current.state, current.fence))
            _expect(event is not Event.SHARDS_MADE or stored.refused == current.refused)
            return self._change(current, state=target, **changes)

    def participant(self, round_: Round, device: str) -> Participant | None:
        return self._participants.get((*_key(round_), device))

    def participants(self, round_: Round) -> Iterator[Participant]:
        with self._lock:
            found = [part for key, part in sorted(self._participants.items()) if key[:3] == _key(round_)]
        self.items_read += len(found)
        yield from found

    def count_reply(self, round_: Round, part: Participant, reply: Completion, received_at: int) -> None:
        with self._lock:
            self._in_state(round_, State.OPEN)
            fields = round_metrics.reply_fields(reply, received_at)
            self._move(round_, part, Participation.REPLIED, **fields, group=round_.next_group)

    def move_participant(self, round_: Round, part: Participant, target: Participation, reason: str) -> None:
        with self._lock:
            self._in_state(round_, State.OPEN)
            self._move(round_, part, target, reason=reason)

    def fill(self, round_: Round, devices: Sequence[str], *, unfilled: int, at: int) -> None:
        with self._lock:
            stored = self._in_state(round_, State.OPEN)
            _expect(stored.batches == round_.batches)
            _expect(not any((*_key(round_), device) in self._participants for device in devices))
            batch = stored.batches + 1
            for device in devices:
                self._participants[*_key(round_), device] = Participant(
                    device=device,
                    state=Participation.ASKED,
                    announced_at=at,
                    batch=batch,
                    base=round_.base,
                )
            changes = {"asked": stored.asked + len(devices), "batches": batch} if devices else {}
            self._change(round_, unfilled=unfilled, **changes)

    def participants_from(self, run: str, first: int, last: int) -> Iterator[tuple[int, int, Participant]]:
        with self._lock:
            found = [
                (number, attempt, part)
                for (name, number, attempt, _), part in sorted(self._participants.items())
                if name == run and first <= number <= last
            ]
        self.items_read += len(found)
        yield from found

    def carry(
        self,
        round_: Round,
        part: Participant,
        origin: tuple[int, int],
        target: Participation,
        values: Mapping[str, object],
    ) -> None:
        with self._lock:
            stored = self._in_state(round_, State.OPEN)
            left, there = (round_.run, *origin, part.device), (*_key(round_), part.device)
            _expect(left in self._participants and self._participants[left].state is part.state)
            _expect(part.state in before(Participation.CARRIED) and there not in self._participants)
            row = round_metrics.carried_over(origin, part, target, values)
            self._participants[left] = msgspec.structs.replace(
                self._participants[left],
                state=Participation.CARRIED,
                to_round=round_.number,
                to_attempt=round_.attempt,
            )
            self._participants[there] = row
            added = Counter(round_metrics.tally([row]))
            if part.state is Participation.SILENT:
                added["in_flight_before"] += 1
                silent_in = self._rounds[round_.run, *origin]
                self._change(silent_in, silent=silent_in.silent - 1)
            self._change(round_, **{name: getattr(stored, name) + by for name, by in added.items()})

    def move_later(
        self, round_: Round, part: Participant, target: Participation, values: Mapping[str, object]
    ) -> None:
        with self._lock:
            self._in_state(round_, round_.state)
            self._move(round_, part, target, **values)

    def refuse_update(self, round_: Round, device: str, reason: str) -> None:
        with self._lock:
            stored = self._in_state(round_, State.AGGREGATING)
            _expect(stored.fence == round_.fence)
            part = self.participant(round_, device)
            _expect(part is not None)
            self._move(round_, cast(Participant, part), Participation.REFUSED, reason=reason)

    def begin_group(self, round_: Round, example_cap: int = 0) -> None:
        with self._lock:
            stored = self._in_state(round_, State.OPEN)
            _expect(stored.groups == round_.groups)
            self._change(round_, groups=round_.groups + 1, example_cap=example_cap)

    def members(self, round_: Round, group: int) -> Iterator[Participant]:
        with self._lock:
            found = [
                part
                for key, part in sorted(self._participants.items())
                if key[:3] == _key(round_) and group and part.group == group
            ]
        self.items_read += len(found)
        yield from found

    def count_late(self, round_: Round, part: Participant, received_at: int) -> None:
        with self._lock:
            self._in_state(round_, round_.state)
            self._move(round_, part, Participation.LATE, received_at=received_at)

    def unsettled(self) -> list[str]:
        return [
            name for name, state in self.runs().items() if state not in LIVING and name not in self._settled
        ]

    def settle(self, name: str) -> None:
        self._settled.add(name)

    def note_failure(self, round_: Round, failure: str) -> None:
        with self._lock:
            stored = self._in_state(round_, State.AGGREGATING)
            _expect(stored.fence == round_.fence)
            self._change(round_, failure=failure)

    def restore_run(self, lost: Run, over: Run | None = None) -> None:
        with self._lock:
            if over:
                self._where_it_stands(over)
                self._runs[lost.name] = lost
                self._settled.discard(lost.name)
            self._runs.setdefault(lost.name, lost)

    def restore_round(self, lost: Round, over: Round | None = None) -> None:
        with self._lock:
            if over:
                stored = self._stored(over)
                _expect((stored.state, stored.fence) == (over.state, over.fence))
                self._rounds[_key(lost)] = lost
            self._rounds.setdefault(_key(lost), lost)

    def restore_participants(self, round_: Round, lost: Sequence[Participant], *, over: bool = False) -> None:
        with self._lock:
            for participant in lost:
                key = (*_key(round_), participant.device)
                if over:
                    self._participants[key] = participant
                self._participants.setdefault(key, participant)

    def lose(self, *, runs: bool = False, rounds: bool = False, participants: bool = False) -> None:
        """Lose rows, as if the table had been deleted."""
        with self._lock:
            if runs:
                self._runs.clear()
            if rounds:
                self._rounds.clear()
            if participants:
                self._participants.clear()

    def lose_round(self, lost: Round) -> None:
        """Lose the row of one round."""
        with self._lock:
            del self._rounds[_key(lost)]

    def rows(self) -> dict[object, msgspec.Struct]:
        """Return all rows."""
        with self._lock:
            tables: list[Mapping[Any, msgspec.Struct]] = [self._runs, self._rounds, self._participants]
            return {key: row for table in tables for key, row in table.items()}

    def _where_it_stands(self, run: Run) -> Run:
        stored = self._runs.get(run.name)
        if stored is None:
            raise LostRace(run.name)
        _expect((stored.state, stored.round, stored.attempt) == (run.state, run.round, run.attempt))
        return stored

    def _stored(self, round_: Round) -> Round:
        _expect(_key(round_) in self._rounds)
        return self._rounds[_key(round_)]

    def _in_state(self, round_: Round, state: State) -> Round:
        stored = self._stored(round_)
        _expect(stored.state is state)
        return stored

    def _change(self, round_: Round, **changes: object) -> Round:
        self._rounds[_key(round_)] = msgspec.structs.replace(self._stored(round_), **changes)
        return self._rounds[_key(round_)]

    def _move(self, round_: Round, part: Participant, target: Participation, **changes: object) -> None:
        key = (*_key(round_), part.device)
        _expect(key in self._participants and self._participants[key].state is part.state)
        _expect(part.state in before(target))
        old = self._participants[key]
        new = self._participants[key] = round_metrics.moved(old, target, changes)
        stored = self._stored(round_)
        added = {name: getattr(stored, name) + by for name, by in round_metrics.difference(old, new).items()}
        self._change(round_, **added)


def _key(round_: Round) -> RoundKey:
    return (round_.run, round_.number, round_.attempt)


def _expect(holds: bool) -> None:  # noqa: FBT001 - the condition
    if not holds:
        message = "another worker changed a row first"
        raise LostRace(message)


class MemoryDevices:
    """The ``DeviceDirectory`` as a dictionary, which a test fills in place of the heartbeat rule."""

    def __init__(self) -> None:
        self.seen: dict[str, Candidate] = {}

    def heartbeat(
        self,
        device: str,
        at: int,
        tasks: str = "digits",
        examples: int = 0,
        metrics: str = "",
        **attributes: str | float | bool,
    ) -> None:
        self.seen[device] = Candidate(
            device, at, _names(tasks), examples, attributes, metrics=_names(metrics)
        )

    def seen_since(self, earliest: int) -> Iterator[Candidate]:
        return iter([candidate for candidate in self.seen.values() if candidate.last_seen >= earliest])

    def sample(
        self, earliest: int, wanted: int, rng: Random, suits: Callable[[Candidate], bool] = anyone
    ) -> list[Candidate]:
        found: list[Candidate] = []
        for name in rng.sample(sorted(self.seen), len(self.seen)):
            candidate = self.seen[name]
            if len(found) >= wanted:
                break
            if candidate.last_seen >= earliest and suits(candidate):
                found.append(candidate)
        return found

    def count(self, earliest: int) -> int:
        return sum(1 for _ in self.seen_since(earliest))

    def find(self, device: str) -> Candidate | None:
        return self.seen.get(device)


def _names(text: str) -> frozenset[str]:
    return frozenset(filter(None, text.split(",")))


class MemoryThingGroups:
    """The ``ThingGroups`` as a dictionary, which a test fills in place of an operator."""

    def __init__(self) -> None:
        self.groups: dict[str, set[str]] = {}

    def members(self, group: str) -> frozenset[str]:
        return frozenset(self.groups[group])


class MemoryBucket:
    """The ``Bucket`` as a dictionary; ``largest_read`` is the size of the largest read."""

    def __init__(self, name: str = "bucket") -> None:
        self.name = name
        self.lanes = 2
        self.range_bytes = 64 * 1024
        self.objects: dict[str, bytes] = {}
        self.largest_read = 0
        self.targets: set[int] = set()  # addresses of the buffers passed to ``read_into``
        self.unreadable: dict[str, str] = {}  # keys of objects that cannot be read, and the error messages
        self._versions: dict[
            str, tuple[bytes, int]
        ] = {}  # the object that was read last, and its version number
        self._lock = threading.Lock()

    def _given(self, key: str) -> bytes:
        """Return an object, unless it is among the unreadable ones."""
        data = self.objects[key]
        if key in self.unreadable:
            message = f"object {key} cannot be read, S3 answers {self.unreadable[key]}"
            raise UpdateRefused(message)
        return data

    def _version(self, key: str, data: bytes) -> str:
        """Return the version of an object; each written object has another one."""
        with self._lock:
            last, number = self._versions.get(key, (None, 0))
            if last is not data:
                number += 1
                self._versions[key] = (data, number)
            return str(number)

    def read(self, key: str, largest: int) -> bytes:
        data = self._given(key)
        if len(data) > largest:
            message = f"object {key} has {len(data)} bytes; {largest} is the most it may have"
            raise UpdateRefused(message)
        self.largest_read = max(self.largest_read, len(data))
        return data

    def read_into(self, key: str, start: int, target: memoryview, version: str = "") -> str:
        if not target.nbytes:
            return version
        data = self._given(key)
        found = self._version(key, data)
        if version not in {"", found}:
            message = f"object {key} was replaced while it was read"
            raise UpdateRefused(message)
        piece = data[start : start + target.nbytes]
        self.largest_read = max(self.largest_read, len(piece))
        if len(piece) < target.nbytes:
            message = f"object {key} is empty, or shorter than it should be"
            raise UpdateRefused(message)
        target.cast("B")[:] = piece
        self.targets.add(np.frombuffer(target, np.uint8).ctypes.data)
        return found

    def exists(self, key: str) -> bool:
        return key in self.objects

    def create(self, key: str) -> "MemoryWriter":
        return MemoryWriter(self, key)

    def copy_once(self, source: str, target: str) -> bool:
        with self._lock:
            data = self.objects[source]
            if target in self.objects:
                return False
            self.objects[target] = data
            return True

    def read_layout(self, key: str) -> Layout:
        data = self._given(key)
        return read_layout(data, len(data))

    def write(self, key: str, data: bytes) -> None:
        self.objects[key] = bytes(bytearray(data))  # a copy is a separate version

    def write_once(self, key: str, data: bytes) -> bytes:
        with self._lock:
            return self.objects.setdefault(key, bytes(data))

    def read_version(self, key: str, largest: int) -> tuple[bytes, str]:
        data = self.read(key, largest)
        return data, checksum(data)

    def write_over(self, key: str, data: bytes | bytearray, version: str | None) -> bool:
        with self._lock:
            there = self.objects.get(key)
            if version != (None if there is None else checksum(there)):
                return False
            self.objects[key] = bytes(data)
            return True


class MemoryWriter:
    """The ``ObjectWriter`` that holds the written bytes until it is finished."""

    def __init__(self, bucket: MemoryBucket, key: str) -> None:
        self._bucket = bucket
        self._key = key
        self._written = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._written += data

    def finish(self) -> None:
        self._bucket.write(self._key, bytes(self._written))

    def abort(self) -> None:
        self._written.clear()


class MemoryPublisher:
    """The ``Publisher`` that records what was published, by topic."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []

    def publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        self.published += list(messages)

    def on(self, topic: str) -> list[bytes]:
        return [payload for published_to, payload in self.published if published_to == topic]


class MemoryAlarms:
    """The ``Alarms`` in memory; a test takes due alarms, reminders and jobs from it and delivers them."""

    def __init__(self) -> None:
        self._set: dict[Alarm, None] = {}
        self.reminders: list[tuple[Reminder, int]] = []
        self.jobs: list[Job] = []

    def set(self, alarm: Alarm) -> None:
        self._set.setdefault(alarm)

    def cancel(self, alarm: Alarm) -> None:
        self._set.pop(alarm, None)

    def hand_over(self, job: Job) -> None:
        self.jobs.append(job)

    def remind(self, reminder: Reminder, seconds: int) -> None:
        self.reminders.append((reminder, seconds))

    def standing(self) -> list[Alarm]:
        return list(self._set)

    def ring(self, now: int) -> list[Alarm]:
        """Remove and return the alarms that are due."""
        rung = [alarm for alarm in self._set if alarm.at <= now]
        for alarm in rung:
            self.cancel(alarm)
        return rung


class Crash(BaseException):
    """A crash of the worker. Not an ``Exception``, so that the code under test cannot catch it."""


class CallCounter:
    """Counts the calls of ports; at a chosen call the worker crashes, or another one acts first."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._times: Counter[str] = Counter()
        self._planned: dict[tuple[str, int], Callable[[], object]] = {}
        self.most: int | None = None  # more calls are taken for an endless loop
        self.before: Callable[[str], None] | None = None  # called with the name of each call

    def plan(self, act: Callable[[], object], *, name: str = "", call: int = 1) -> None:
        """Call ``act`` just before the ``call``-th call from now (from 1), of ``name`` or of any port."""
        self._planned[name, self._times[name] + call] = act

    def plan_crash(self, *, name: str = "", call: int = 1) -> None:
        """Crash the worker just before that call."""
        self.plan(_die, name=name, call=call)

    def forget_plans(self) -> None:
        self._planned.clear()

    def counted(self, name: str) -> None:
        self.calls.append(name)
        if self.most is not None and len(self.calls) > self.most:
            message = f"more than {self.most} calls of ports: the work goes round for ever"
            raise AssertionError(message)
        if self.before:
            self.before(name)
        for key in ("", name):
            self._times[key] += 1
            act = self._planned.pop((key, self._times[key]), None)
            if act:
                act()


def _die() -> None:
    raise Crash


class Counted:
    """A port whose calls are counted by a ``CallCounter`` before they are made."""

    def __init__(self, port: object, counter: CallCounter) -> None:
        self._port = port
        self._counter = counter

    def __getattr__(self, name: str) -> object:
        attribute = getattr(self._port, name)
        return _counting(attribute, name, self._counter) if callable(attribute) else attribute


def _counting(method: Callable[P, T], name: str, counter: CallCounter) -> Callable[P, T]:
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        counter.counted(name)
        return method(*args, **kwargs)

    return call
