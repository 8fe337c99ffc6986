"""The table of runs, rounds and participants in memory, with the limits of DynamoDB."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
from botocore.exceptions import ClientError

from cloud_functions.aws.dynamodb_table import marshal, to_row
from fedgrass.federation import round_metrics
from fedgrass.federation.errors import LostRace
from fedgrass.federation.messages import Completion
from fedgrass.federation.rounds import (
    TRANSITIONS,
    Event,
    Move,
    Participant,
    Participation,
    Round,
    State,
    before,
)
from fedgrass.federation.runs import LIVING, Progress, Run, RunState

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


class ParticipantRows(Rows):
    """The rows of participants, indexed by their round: a round is read without those of all others."""

    def __init__(self, rows: Mapping[Any, Any] | None = None) -> None:
        super().__init__()
        self._devices: dict[RoundKey, dict[str, None]] = {}
        self._in_order: dict[RoundKey, list[str]] = {}  # the devices of a round by name, once it was read
        self._attempts: dict[tuple[str, int], set[int]] = {}
        for key, row in (rows or {}).items():
            self[key] = row

    def __setitem__(self, key: Any, row: msgspec.Struct) -> None:
        super().__setitem__(key, row)
        round_key, device = key[:3], key[3]
        devices = self._devices.setdefault(round_key, {})
        if device not in devices:
            devices[device] = None
            self._in_order.pop(round_key, None)
            self._attempts.setdefault(key[:2], set()).add(key[2])

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        del self._devices[key[:3]][key[3]]
        self._in_order.pop(key[:3], None)

    def clear(self) -> None:
        super().clear()
        for index in (self._devices, self._in_order, self._attempts):
            index.clear()

    def of_round(self, round_key: RoundKey) -> list[Participant]:
        """Return the participants of one attempt at a round, by device name."""
        if round_key not in self._in_order:
            self._in_order[round_key] = sorted(self._devices.get(round_key, ()))
        return [self[(*round_key, device)] for device in self._in_order[round_key]]

    def attempts(self, run: str, number: int) -> list[int]:
        """Return the attempts at a round that have participants, in order."""
        return sorted(self._attempts.get((run, number), ()))


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
        self._rows_of_participants = ParticipantRows()
        self._settled: set[str] = set()
        self.items_read = 0  # by reads of many participants

    @property
    def _participants(self) -> ParticipantRows:
        return self._rows_of_participants

    @_participants.setter
    def _participants(self, rows: Mapping[ParticipantKey, Participant]) -> None:
        """Replace all participants, as a restored table has them."""
        self._rows_of_participants = ParticipantRows(rows)

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
            for name in {"actions", "published"} & changes.keys():
                _expect(getattr(stored, name) == getattr(run, name))
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

    def rounds_from(self, run: str, first: int, last: int) -> Iterator[Round]:
        with self._lock:
            found = [
                round_
                for key, round_ in sorted(self._rounds.items())
                if key[0] == run and first <= key[1] <= last
            ]
        yield from found

    def lease_announcement(self, round_: Round, until: int) -> Round:
        with self._lock:
            stored = self._in_state(round_, State.OPEN)
            _expect(stored.announced_batches == round_.announced_batches)
            _expect(stored.announcing_until == round_.announcing_until)
            return self._change(round_, announcing_until=until)

    def mark_announced(self, round_: Round, at: int) -> None:
        with self._lock:
            stored = self._stored(round_)
            _expect(stored.batches == round_.batches)
            _expect(stored.announced_batches == round_.announced_batches)
            self._change(round_, announced_batches=round_.batches, announcing_until=0)
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
            found = self._participants.of_round(_key(round_))
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

    def round_with(
        self, run: str, number: int, attempt: int, devices: Sequence[str]
    ) -> tuple[Round | None, dict[str, Participant]]:
        with self._lock:
            keys = {device: (run, number, attempt, device) for device in devices}
            found = {
                device: self._participants[key] for device, key in keys.items() if key in self._participants
            }
            return self._rounds.get((run, number, attempt)), found

    def move_together(self, round_: Round, moves: Sequence[Move]) -> None:
        with self._lock:
            self._in_state(round_, State.OPEN)
            for part, target, _ in moves:
                self._expect_movable(round_, part, target)
            for part, target, values in moves:
                self._move(round_, part, target, **values)

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
                for number in range(first, last + 1)
                for attempt in self._participants.attempts(run, number)
                for part in self._participants.of_round((run, number, attempt))
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
            parts = self._participants.of_round(_key(round_)) if group else []
            found = [part for part in parts if part.group == group]
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

    def _expect_movable(self, round_: Round, part: Participant, target: Participation) -> None:
        key = (*_key(round_), part.device)
        _expect(key in self._participants and self._participants[key].state is part.state)
        _expect(part.state in before(target))

    def _move(self, round_: Round, part: Participant, target: Participation, **changes: object) -> None:
        self._expect_movable(round_, part, target)
        key = (*_key(round_), part.device)
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
