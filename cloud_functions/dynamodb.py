"""The table of runs, rounds and participants, moved by conditional writes alone.

One partition per run; the sort key ``item`` says what a row is:

    run                                       the run
    round/<number>/<attempt>                  one attempt at a round
    participant/<number>/<attempt>/<device>   one device's part in it

and one partition ``#runs`` lists all runs with their states ('#' can be in no run's name).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from botocore.exceptions import ClientError

from cloud_functions.dynamodb_rows import (
    Record,
    Row,
    as_check,
    disturbed,
    marshal,
    to_record,
    to_row,
    translated,
    unmarshal,
    update_expression,
)
from fedgrass.federation.errors import LostRace
from fedgrass.federation.messages import Completion
from fedgrass.federation.rounds import (
    GONE,
    TRANSITIONS,
    Event,
    Participant,
    Participation,
    Round,
    State,
    before,
)
from fedgrass.federation.runs import Progress, Run, RunState

_LIST = "#runs"
_MOST_PER_TRANSACTION = 100  # DynamoDB's own limit
_TRIES = 20  # at a transaction that another one disturbed


class DynamoRounds:
    """The ``RoundStore`` in DynamoDB. All reads are consistent.

    Args:
        client: boto3's ``dynamodb`` client.
        table: the name of the table, with the keys ``run`` and ``item``.
        pause: waits so many seconds before a disturbed transaction is tried again.
    """

    def __init__(self, client: Any, table: str, pause: Callable[[float], None]) -> None:
        self._client = client
        self._table = table
        self._pause = pause

    def create_run(self, run: Run) -> None:
        """Store a new run; see ``RoundStore``."""
        self._transact([self._new(_run_row(run)), self._new(_listed(run))])

    def run(self, name: str) -> Run | None:
        """Return a run, or None."""
        return self._get(name, "run", Run)

    def runs(self) -> dict[str, RunState]:
        """Return the state of every run there is, by name."""
        return {row["item"]: RunState(row["state"]) for row in self._query(_LIST)}

    def change_run(self, run: Run, **changes: object) -> Run:
        """Change fields of a run; see ``RoundStore``."""
        actions = [self._update(run.name, "run", changes, _where_it_stands(run))]
        if "state" in changes:
            actions.append(self._update(_LIST, run.name, {"state": changes["state"]}))
        self._transact(actions)
        return msgspec.structs.replace(run, **changes)

    def ask(self, first: Round, devices: Sequence[str]) -> None:
        """Store the participants of a round; see ``RoundStore``."""
        self._put_missing([_asked(first, device) for device in devices])

    def open_round(self, run: Run, first: Round, progress: Progress) -> None:
        """Store a new round and make it the run's newest; see ``RoundStore``."""
        newest = {"round": first.number, "attempt": first.attempt, "progress": progress}
        moved = self._update(run.name, "run", newest, _where_it_stands(run))
        self._transact([self._new(_round_row(first)), moved])

    def round(self, run: str, number: int, attempt: int) -> Round | None:
        """Return one attempt at a round, or None."""
        return self._get(run, _round_key(number, attempt), Round)

    def mark_announced(self, current: Round) -> None:
        """Note that every announcement was published; see ``RoundStore``."""
        self._write(self._update_round(current, {"announced": True}, {"asked": current.asked}))

    def replace(self, current: Round, silent: Sequence[str], devices: Sequence[str]) -> None:
        """Ask devices in place of those that are gone; see ``RoundStore``."""
        gone = current.gone + len(silent)
        asked = current.asked + len(devices)
        counts = {"asked": asked, "gone": gone, "replaced": gone, "announced": not devices}
        stands = {"state": State.OPEN, "asked": current.asked, "gone": current.gone}
        left = [
            self._update(
                current.run,
                _participant_key(current, device),
                {"state": Participation.SILENT},
                {"state": Participation.ASKED},
            )
            for device in silent
        ]
        came = [self._new(_asked(current, device)) for device in devices]
        self._transact([self._update_round(current, counts, stands), *left, *came])

    def move(self, current: Round, event: Event, **changes: object) -> Round:
        """Move a round as the table of transitions says; see ``RoundStore``."""
        values = {"state": TRANSITIONS[current.state, event], **changes}
        stands = {"state": current.state, "fence": current.fence}
        return to_record(self._write(self._update_round(current, values, stands)), Round)

    def participant(self, of: Round, device: str) -> Participant | None:
        """Return one device's part in a round, or None."""
        return self._get(of.run, _participant_key(of, device), Participant)

    def participants(self, of: Round) -> Iterator[Participant]:
        """Return all participants of a round, by device name."""
        for row in self._query(of.run, _participant_key(of, "")):
            yield to_record(row, Participant)

    def count_reply(self, of: Round, device: str, reply: Completion, received_at: int) -> None:
        """Make a participant REPLIED and count it; see ``RoundStore``."""
        fields = set(Participant.__struct_fields__) & set(Completion.__struct_fields__)
        values = {field: getattr(reply, field) for field in sorted(fields)} | {"received_at": received_at}
        counted = self._update_round(of, {}, {"state": State.OPEN}, add="replied")
        self._move_participant(of, device, Participation.REPLIED, values, counted)

    def move_participant(self, of: Round, device: str, target: Participation, reason: str) -> None:
        """Move a participant; see ``RoundStore``."""
        gone = "gone" if target in GONE else None
        counted = self._update_round(of, {}, {"state": State.OPEN}, add=gone)
        checked = counted if gone else as_check(counted)
        self._move_participant(of, device, target, {"reason": reason}, checked)

    def refuse_update(self, of: Round, device: str, reason: str) -> None:
        """Make a REPLIED participant REFUSED; see ``RoundStore``."""
        leased = {"state": State.AGGREGATING, "fence": of.fence}
        counted = self._update_round(of, {}, leased, add="refused")
        self._move_participant(of, device, Participation.REFUSED, {"reason": reason}, counted)

    def begin_group(self, of: Round, devices: Sequence[str]) -> None:
        """Count a group more, and note it with its members; see ``RoundStore``."""
        stands = {"state": State.OPEN, "groups": of.groups}
        counted = self._update_round(of, {"groups": of.groups + 1}, stands)
        free = {"state": Participation.REPLIED, "group": 0}
        joined = [
            self._update(of.run, _participant_key(of, device), {"group": of.groups + 1}, free)
            for device in devices
        ]
        self._transact([counted, *joined])

    def count_late(self, of: Round, device: str, received_at: int) -> None:
        """Make a participant LATE and count that; see ``RoundStore``."""
        counted = self._update_round(of, {}, {"state": of.state}, add="late")
        self._move_participant(of, device, Participation.LATE, {"received_at": received_at}, counted)

    def restore_run(self, lost: Run) -> None:
        """Store a run and its entry in the list, each where it is missing; see ``RoundStore``."""
        self._put_unless_there(self._new(_run_row(lost)))
        self._put_unless_there(self._new(_listed(lost)))

    def restore_round(self, lost: Round) -> None:
        """Store a round unless it is there; see ``RoundStore``."""
        self._put_unless_there(self._new(_round_row(lost)))

    def restore_participants(self, of: Round, lost: Sequence[Participant]) -> None:
        """Store participants where they are missing; see ``RoundStore``."""
        self._put_missing([_participant_row(of, participant) for participant in lost])

    def _move_participant(
        self, of: Round, device: str, target: Participation, values: Row, counted: dict[str, Any]
    ) -> None:
        """Move a participant and count it in its round, both or neither.

        The condition on the participant is what counts a message once: of two copies that both read ASKED,
        the second finds the participant moved, and its transaction changes nothing.
        """
        key = _participant_key(of, device)
        moved = self._update(of.run, key, {"state": target, **values}, {"state": before(target)})
        self._transact([moved, counted])

    def _get(self, run: str, item: str, kind: type[Record]) -> Record | None:
        key = marshal({"run": run, "item": item})
        answer = self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True)
        return to_record(unmarshal(answer["Item"]), kind) if "Item" in answer else None

    def _query(self, run: str, prefix: str = "") -> Iterator[Row]:
        condition, names, values = "#run = :run", {"#run": "run"}, {":run": run}
        if prefix:
            condition += " AND begins_with(#item, :prefix)"
            names["#item"], values[":prefix"] = "item", prefix
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression=condition,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=marshal(values),
            ConsistentRead=True,
        )
        for page in pages:
            yield from map(unmarshal, page["Items"])

    def _new(self, row: Row) -> dict[str, Any]:
        """Return a put of a row that must not be there yet."""
        condition = {
            "ConditionExpression": "attribute_not_exists(#run)",
            "ExpressionAttributeNames": {"#run": "run"},
        }
        return {"Put": {"TableName": self._table, "Item": marshal(row), **condition}}

    def _put_missing(self, rows: Sequence[Row]) -> None:
        """Put the rows that are not there yet, many at a time."""
        puts = [self._new(row) for row in rows]
        for start in range(0, len(puts), _MOST_PER_TRANSACTION):
            chunk = puts[start : start + _MOST_PER_TRANSACTION]
            try:
                self._transact(chunk)
            except LostRace:  # some are there already: add the others one by one
                for put in chunk:
                    self._put_unless_there(put)

    def _put_unless_there(self, put: dict[str, Any]) -> None:
        try:
            self._client.put_item(**put["Put"])
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise

    def _update_round(
        self, of: Round, values: Row, stands: Mapping[str, object] | None = None, add: str | None = None
    ) -> dict[str, Any]:
        return self._update(of.run, _round_key(of.number, of.attempt), values, stands, add)

    def _update(
        self,
        run: str,
        item: str,
        values: Mapping[str, object],
        stands: Mapping[str, object] | None = None,
        add: str | None = None,
    ) -> dict[str, Any]:
        """Return an update that sets ``values`` and adds 1 to ``add`` if the row stands as ``stands``."""
        key = marshal({"run": run, "item": item})
        expression = update_expression(values, stands or {}, add)
        return {"Update": {"TableName": self._table, "Key": key, **expression}}

    def _write(self, update: dict[str, Any]) -> Row:
        """Make one update by itself; return the row as it is then."""
        answer = self._undisturbed(
            lambda: self._client.update_item(**update["Update"], ReturnValues="ALL_NEW")
        )
        return unmarshal(answer["Attributes"])

    def _transact(self, actions: list[dict[str, Any]]) -> None:
        self._undisturbed(lambda: self._client.transact_write_items(TransactItems=actions))

    def _undisturbed(self, write: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Make a write, and again while others touch the same rows at that moment."""
        for turn in range(_TRIES - 1):
            try:
                return write()
            except ClientError as error:
                if not disturbed(error):
                    raise translated(error) from error
                self._pause(0.01 * 2 ** min(turn, 6))
        try:
            return write()
        except ClientError as error:
            raise translated(error) from error


def _where_it_stands(run: Run) -> Row:
    return {"state": run.state, "round": run.round, "attempt": run.attempt}


def _asked(of: Round, device: str) -> Row:
    asked = Participant(device=device, state=Participation.ASKED, announced_at=of.opened_at)
    return _participant_row(of, asked)


def _run_row(run: Run) -> Row:
    return {**to_row(run), "run": run.name, "item": "run"}


def _listed(run: Run) -> Row:
    return {"run": _LIST, "item": run.name, "state": run.state}


def _round_row(of: Round) -> Row:
    return {**to_row(of), "item": _round_key(of.number, of.attempt)}


def _participant_row(of: Round, participant: Participant) -> Row:
    return {**to_row(participant), "run": of.run, "item": _participant_key(of, participant.device)}


def _round_key(number: int, attempt: int) -> str:
    return f"round/{number:06}/{attempt:03}"


def _participant_key(of: Round, device: str) -> str:
    return f"participant/{of.number:06}/{of.attempt:03}/{device}"
