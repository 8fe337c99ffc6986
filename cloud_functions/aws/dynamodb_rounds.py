"""The table of runs, rounds and participants, which is changed only by conditional writes.

Each run has a partition. The sort key ``item`` gives the kind of a row:

    run                                       the run
    round/<number>/<attempt>                  one attempt at a round
    participant/<number>/<attempt>/<device>   one device's part in it
    member/<number>/<attempt>/<group>/<device>  an index of the replies in each group (partial sum)

Two more partitions list the runs; their names contain '#', which no run's name can. ``#runs`` has all runs
with their states, ``#living`` only those that have not ended. A hello reads only the second, whose size does
not grow over the years.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from cloud_functions.aws.dynamodb_table import Row, Table, to_record, to_row
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

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

_LIST = "#runs"
_LIVING = "#living"


class DynamoRounds:
    """The ``RoundStore`` in DynamoDB. All reads are consistent.

    Args:
        client: boto3's ``dynamodb`` client.
        table: the name of the table, with the keys ``run`` and ``item``.
        pause: waits for a number of seconds before a transaction that met a conflict is retried.
    """

    def __init__(self, client: "DynamoDBClient", table: str, pause: Callable[[float], None]) -> None:
        self._table = Table(client, table, pause)

    def create_run(self, run: Run) -> None:
        """Store a new run; see ``RoundStore``."""
        new = [self._table.new(row) for row in (_run_row(run), _listed(run))]
        self._table.transact([*new, self._living(run.name, run.state)])

    def run(self, name: str) -> Run | None:
        """Return a run, or None."""
        return self._table.get(name, "run", Run)

    def runs(self) -> dict[str, RunState]:
        """Return the state of every run, by name."""
        return {row["item"]: RunState(row["state"]) for row in self._table.query(_LIST)}

    def living(self) -> list[str]:
        """Return the names of the runs that have not ended; see ``RoundStore``."""
        return [row["item"] for row in self._table.query(_LIVING)]

    def change_run(self, run: Run, **changes: object) -> Run:
        """Change fields of a run; see ``RoundStore``."""
        expected = _position(run)
        expected |= {name: getattr(run, name) for name in ("actions", "published") if name in changes}
        actions = [self._table.update(run.name, "run", changes, expected)]
        if "state" in changes:
            listed = {"state": changes["state"], "settled": False}
            actions.append(self._table.update(_LIST, run.name, listed))
            actions.append(self._living(run.name, changes["state"]))
        self._table.transact(actions)
        return msgspec.structs.replace(run, **changes)

    def ask(self, round_: Round, devices: Sequence[str]) -> None:
        """Store the participants of a round; see ``RoundStore``."""
        self._table.put_missing([_asked(round_, device) for device in devices])

    def open_round(self, run: Run, round_: Round, progress: Progress) -> None:
        """Store a new round and make it the run's newest; see ``RoundStore``."""
        newest = {
            "round": round_.number,
            "attempt": round_.attempt,
            "progress": progress,
            "waiting_since": 0,
        }
        moved = self._table.update(run.name, "run", newest, _position(run))
        self._table.transact([self._table.new(_round_row(round_)), moved])

    def round(self, run: str, number: int, attempt: int) -> Round | None:
        """Return one attempt at a round, or None."""
        return self._table.get(run, _round_key(number, attempt), Round)

    def rounds_from(self, run: str, first: int, last: int) -> Iterator[Round]:
        """Return the attempts at several rounds; see ``RoundStore``."""
        for row in self._table.between(run, f"round/{first:06}/", f"round/{last:06}/~"):
            yield to_record(row, Round)

    def lease_announcement(self, round_: Round, until: int) -> Round:
        """Take, extend or release the lease to announce a round; see ``RoundStore``."""
        expected = {
            "state": State.OPEN,
            "announced_batches": round_.announced_batches,
            "announcing_until": round_.announcing_until,
        }
        written = self._table.write(self._update_round(round_, {"announcing_until": until}, expected))
        return to_record(written, Round)

    def mark_announced(self, round_: Round, at: int) -> None:
        """Note that all batches were announced; see ``RoundStore``."""
        values: dict[str, object] = {"announced_batches": round_.batches, "announcing_until": 0}
        if not round_.announced_batches:
            values["opening_seconds"] = (at - round_.choosing_at) / 1000
        expected = {"batches": round_.batches, "announced_batches": round_.announced_batches}
        self._table.write(self._update_round(round_, values, expected))

    def replace(
        self, round_: Round, silent: Sequence[Participant], devices: Sequence[str], *, replaced: int, at: int
    ) -> None:
        """Ask devices in place of others; see ``RoundStore``."""
        batch = round_.batches + 1
        values: Row = {"replaced": round_.replaced + replaced + len(silent)}
        values |= {"asked": round_.asked + len(devices), "batches": batch} if devices else {}
        expected = {"state": State.OPEN, "batches": round_.batches, "replaced": round_.replaced}
        add: Counter[str] = Counter()
        left = []
        for part in silent:
            moved = round_metrics.moved(part, Participation.SILENT, {})
            add.update(round_metrics.difference(part, moved))
            key = _participant_key(round_, part.device)
            left.append(self._table.update(round_.run, key, {"state": moved.state}, {"state": part.state}))
        came = [self._table.new(_asked(round_, device, batch, at)) for device in devices]
        self._table.transact([self._update_round(round_, values, expected, add), *left, *came])

    def move(self, current: Round, event: Event, **changes: object) -> Round:
        """Move a round according to the table of transitions; see ``RoundStore``."""
        values = {"state": TRANSITIONS[current.state, event], **changes}
        expected = {"state": current.state, "fence": current.fence}
        if event is Event.SHARDS_MADE:  # the shards are of the updates that were not refused by then
            expected["refused"] = current.refused
        return to_record(self._table.write(self._update_round(current, values, expected)), Round)

    def participant(self, round_: Round, device: str) -> Participant | None:
        """Return one device's part in a round, or None."""
        return self._table.get(round_.run, _participant_key(round_, device), Participant)

    def participants(self, round_: Round) -> Iterator[Participant]:
        """Return all participants of a round, by device name."""
        for row in self._table.query(round_.run, _participant_key(round_, "")):
            yield to_record(row, Participant)

    def count_reply(self, round_: Round, part: Participant, reply: Completion, received_at: int) -> None:
        """Make a participant REPLIED and count it; see ``RoundStore``."""
        values = round_metrics.reply_fields(reply, received_at)
        if group := round_.next_group:
            values["group"] = group
        self._move_participant(round_, part, Participation.REPLIED, values, {"state": State.OPEN})

    def move_participant(self, round_: Round, part: Participant, target: Participation, reason: str) -> None:
        """Move a participant and the round's counters; see ``RoundStore``."""
        self._move_participant(round_, part, target, {"reason": reason}, {"state": State.OPEN})

    def round_with(
        self, run: str, number: int, attempt: int, devices: Sequence[str]
    ) -> tuple[Round | None, dict[str, Participant]]:
        """Return a round and some of its participants by device name; see ``RoundStore``."""
        keys = {device: _row_key(number, attempt, device) for device in devices}
        rows = self._table.get_many(run, [_round_key(number, attempt), *keys.values()])
        row = rows.get(_round_key(number, attempt))
        found = {device: to_record(rows[key], Participant) for device, key in keys.items() if key in rows}
        return to_record(row, Round) if row else None, found

    def move_together(self, round_: Round, moves: Sequence[Move]) -> None:
        """Move several participants and the round's counters; see ``RoundStore``."""
        self._move_all(round_, moves, {"state": State.OPEN})

    def fill(self, round_: Round, devices: Sequence[str], *, unfilled: int, at: int) -> None:
        """Ask devices in the vacant places of a buffer; see ``RoundStore``."""
        batch = round_.batches + 1
        values: Row = {"unfilled": unfilled}
        values |= {"asked": round_.asked + len(devices), "batches": batch} if devices else {}
        expected = {"state": State.OPEN, "batches": round_.batches}
        came = [self._table.new(_asked(round_, device, batch, at, round_.base)) for device in devices]
        self._table.transact([self._update_round(round_, values, expected), *came])

    def participants_from(self, run: str, first: int, last: int) -> Iterator[tuple[int, int, Participant]]:
        """Return the participants of several rounds; see ``RoundStore``."""
        for row in self._table.between(run, f"participant/{first:06}/", f"participant/{last:06}/~"):
            _, number, attempt, _ = row["item"].split("/", 3)
            yield int(number), int(attempt), to_record(row, Participant)

    def carry(
        self,
        round_: Round,
        part: Participant,
        origin: tuple[int, int],
        target: Participation,
        values: Mapping[str, object],
    ) -> None:
        """Count a device of an earlier round in an OPEN buffer; see ``RoundStore``."""
        if part.state not in before(Participation.CARRIED):
            raise LostRace(part.device)
        row = round_metrics.carried_over(origin, part, target, values)
        left = {"state": Participation.CARRIED, "to_round": round_.number, "to_attempt": round_.attempt}
        key = _row_key(*origin, part.device)
        add = Counter(round_metrics.tally([row]))
        actions = [
            self._table.update(round_.run, key, left, {"state": part.state}),
            self._table.new(_participant_row(round_, row)),
        ]
        if part.state is Participation.SILENT:
            add["in_flight_before"] += 1
            silent_in = _round_key(*origin)
            actions.append(self._table.update(round_.run, silent_in, {}, add={"silent": -1}))
        actions.append(self._update_round(round_, {}, {"state": State.OPEN}, +add))
        self._table.transact(actions)

    def move_later(
        self, round_: Round, part: Participant, target: Participation, values: Mapping[str, object]
    ) -> None:
        """Move a participant if its round's state is as it was read; see ``RoundStore``."""
        self._move_participant(round_, part, target, dict(values), {"state": round_.state})

    def refuse_update(self, round_: Round, device: str, reason: str) -> None:
        """Make a REPLIED participant REFUSED; see ``RoundStore``."""
        part = self.participant(round_, device)
        if part is None:
            raise LostRace(device)
        leased = {"state": State.AGGREGATING, "fence": round_.fence}
        self._move_participant(round_, part, Participation.REFUSED, {"reason": reason}, leased)

    def begin_group(self, round_: Round, example_cap: int = 0) -> None:
        """Count one more group; see ``RoundStore``."""
        expected = {"state": State.OPEN, "groups": round_.groups}
        values = {"groups": round_.groups + 1, "example_cap": example_cap}
        self._table.write(self._update_round(round_, values, expected))

    def members(self, round_: Round, group: int) -> Iterator[Participant]:
        """Return the participants of a group; see ``RoundStore``."""
        for row in self._table.query(round_.run, _member_key(round_, group, "")):
            if found := self.participant(round_, row["device"]):
                yield found

    def count_late(self, round_: Round, part: Participant, received_at: int) -> None:
        """Make a participant LATE and count that; see ``RoundStore``."""
        values = {"received_at": received_at}
        self._move_participant(round_, part, Participation.LATE, values, {"state": round_.state})

    def unsettled(self) -> list[str]:
        """Return the names of the runs that have ended and are not settled; see ``RoundStore``."""
        rows = self._table.query(_LIST)
        return [row["item"] for row in rows if row["state"] not in LIVING and not row.get("settled")]

    def settle(self, name: str) -> None:
        """Note that a run that has ended left nothing undone; see ``RoundStore``."""
        self._table.write(self._table.update(_LIST, name, {"settled": True}))

    def note_failure(self, round_: Round, failure: str) -> None:
        """Note why an averager cannot end its lease; see ``RoundStore``."""
        leased = {"state": State.AGGREGATING, "fence": round_.fence}
        self._table.write(self._update_round(round_, {"failure": failure}, leased))

    def restore_run(self, lost: Run, over: Run | None = None) -> None:
        """Store a run and its entries in the lists, each where it is missing; see ``RoundStore``."""
        if over:
            self.change_run(over, **{name: value for name, value in to_row(lost).items() if name != "name"})
        self._table.put_unless_there(self._table.new(_run_row(lost)))
        self._table.put_unless_there(self._table.new(_listed(lost)))
        if lost.state in LIVING:
            self._table.put_unless_there(self._living(lost.name, lost.state))

    def restore_round(self, lost: Round, over: Round | None = None) -> None:
        """Store a round unless it is there; see ``RoundStore``."""
        if over:
            values = {name: value for name, value in to_row(lost).items() if name != "run"}
            expected = {"state": over.state, "fence": over.fence}
            self._table.write(self._update_round(lost, values, expected))
            return
        self._table.put_unless_there(self._table.new(_round_row(lost)))

    def restore_participants(self, round_: Round, lost: Sequence[Participant], *, over: bool = False) -> None:
        """Store participants where they are missing; see ``RoundStore``."""
        if over:
            self._table.put_all([_participant_row(round_, participant) for participant in lost])
            return
        self._table.put_missing([_participant_row(round_, participant) for participant in lost])

    def _move_participant(
        self, round_: Round, part: Participant, target: Participation, values: Row, expected: Row
    ) -> None:
        """Move a participant and count it in its round if the round has the values of ``expected``.

        Both rows change or neither. The condition on the participant ensures that a message is counted once:
        of two copies that both read ASKED, the second finds the participant moved, and its transaction fails.
        The condition is on exactly the state that was read, which determines the change of the counters.
        """
        self._move_all(round_, [Move(part, target, values)], expected)

    def _move_all(self, round_: Round, moves: Sequence[Move], expected: Row) -> None:
        """Move participants and count them in their round, all or none."""
        moved, members = [], []
        add: Counter[str] = Counter()
        for part, target, values in moves:
            if part.state not in before(target):
                raise LostRace(part.device)
            after = round_metrics.moved(part, target, values)
            written = {"state": target, "accepted": after.accepted, **values}
            key = _participant_key(round_, part.device)
            moved.append(self._table.update(round_.run, key, written, {"state": part.state}))
            add.update(round_metrics.difference(part, after))
            if after.group and not part.group:
                members.append(self._table.put(_member_row(round_, after)))
        self._table.transact([*moved, self._update_round(round_, {}, expected, add), *members])

    def _living(self, name: str, state: object) -> "TransactWriteItemTypeDef":
        """Return the write that adds a run to the list of living runs, or removes it."""
        row = {"run": _LIVING, "item": name}
        if state in LIVING:
            return self._table.put(row)
        return self._table.delete(row)

    def _update_round(
        self,
        round_: Round,
        values: Row,
        expected: Mapping[str, object] | None = None,
        add: Mapping[str, int] | None = None,
    ) -> "TransactWriteItemTypeDef":
        return self._table.update(
            round_.run, _round_key(round_.number, round_.attempt), values, expected, add
        )


def _position(run: Run) -> Row:
    return {"state": run.state, "round": run.round, "attempt": run.attempt}


def _asked(round_: Round, device: str, batch: int = 1, at: int = 0, base: int | None = None) -> Row:
    asked = Participant(
        device=device,
        state=Participation.ASKED,
        announced_at=at or round_.opened_at,
        batch=batch,
        base=base,
    )
    return _participant_row(round_, asked)


def _run_row(run: Run) -> Row:
    return {**to_row(run), "run": run.name, "item": "run"}


def _listed(run: Run) -> Row:
    return {"run": _LIST, "item": run.name, "state": run.state}


def _round_row(round_: Round) -> Row:
    return {**to_row(round_), "item": _round_key(round_.number, round_.attempt)}


def _participant_row(round_: Round, participant: Participant) -> Row:
    return {**to_row(participant), "run": round_.run, "item": _participant_key(round_, participant.device)}


def _round_key(number: int, attempt: int) -> str:
    return f"round/{number:06}/{attempt:03}"


def _member_row(round_: Round, part: Participant) -> Row:
    return {"run": round_.run, "item": _member_key(round_, part.group, part.device), "device": part.device}


def _member_key(round_: Round, group: int, device: str) -> str:
    return f"member/{round_.number:06}/{round_.attempt:03}/{group:06}/{device}"


def _participant_key(round_: Round, device: str) -> str:
    return _row_key(round_.number, round_.attempt, device)


def _row_key(number: int, attempt: int, device: str) -> str:
    return f"participant/{number:06}/{attempt:03}/{device}"
