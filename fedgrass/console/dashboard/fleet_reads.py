"""The dashboard's reads of DynamoDB: small pages, eventually consistent, counted and paced.

A read of n units is followed by a pause of n / rate seconds. With pages of at most ``PAGE_UNITS`` no second
has more than ``rate + PAGE_UNITS`` units: at most 10 while a round is open.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from cloud_functions.aws.device_directory import to_candidate
from cloud_functions.aws.dynamodb_table import Record, Row, marshal, to_record, unmarshal
from fedgrass.console import stack
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.runs import Run
from fedgrass.federation.selection import Candidate

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

OPEN_RATE = 8.0  # read units per second while a round is open
IDLE_RATE = 80.0  # otherwise
PAGE_UNITS = 2.0  # that a page aims at
_FIRST_LIMIT, _MOST_ROWS = 20, 1000  # rows of a page: the first one, and the most
_WINDOW_SECONDS = 10.0  # of the rate that is shown
_UNIT_BYTES = 4096
_UNREADABLE = (msgspec.ValidationError, KeyError, ValueError, TypeError)

Item = TypeVar("Item")
Key = Mapping[str, Any]


class ReadBudget:
    """Paces reads and counts their units.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._free_at = 0.0
        self._spent: deque[tuple[float, float]] = deque()
        self.rate = OPEN_RATE
        self.units = 0.0  # since the start

    def wait_seconds(self) -> float:
        """Return how long to wait before the next read; 0: it may begin."""
        # A clock that was set back must not stop the reads.
        return max(0.0, min(self._free_at - self._clock(), _WINDOW_SECONDS))

    def spend(self, units: float) -> None:
        """Count a read that has just been made."""
        now = self._clock()
        self._free_at = now + units / self.rate
        self.units += units
        self._spent.append((now, units))
        while self._spent and self._spent[0][0] < now - _WINDOW_SECONDS:
            self._spent.popleft()

    def per_second(self) -> float:
        """Return the mean of the units per second over the last ten seconds."""
        since = self._clock() - _WINDOW_SECONDS
        return sum(units for at, units in list(self._spent) if at >= since) / _WINDOW_SECONDS


class Page(NamedTuple, Generic[Item]):
    """The items of one page, and the key of the next page, None after the last one."""

    items: list[Item]
    next: Key | None


class FleetReads:
    """The tables of one stack.

    Args:
        dynamodb: boto3's client.
        outputs: the outputs of the stack.
        budget: counts what is read here; the caller waits for it.
    """

    def __init__(self, dynamodb: "DynamoDBClient", outputs: Mapping[str, str], budget: ReadBudget) -> None:
        self._client: Any = dynamodb
        self._rounds = outputs["RoundsTableName"]
        self._devices = outputs["DevicesTableName"]
        self.budget = budget
        self._limits: dict[str, int] = {}
        self.unreadable = 0  # rows skipped: written by another version

    def living(self) -> list[str]:
        """Return the names of the runs that have not ended; a handful of small rows."""
        return [row["item"] for row in self._rows("living", "#living", "", None).items]

    def run_states(self, start: Key | None) -> Page[tuple[str, str]]:
        """Return the names and states of the runs, by name."""
        page = self._rows("runs", "#runs", "", start)
        return Page([(row["item"], str(row["state"])) for row in page.items], page.next)

    def run(self, name: str) -> Run | None:
        """Return a run, or None."""
        return self._get(name, "run", Run)

    def round(self, run: str, number: int, attempt: int) -> Round | None:
        """Return one attempt at a round, or None."""
        return self._get(run, f"round/{number:06}/{attempt:03}", Round)

    def rounds(self, run: str, start: Key | None) -> Page[Round]:
        """Return attempts at the rounds of a run, the newest first."""
        page = self._rows("rounds", run, "round/", start, ScanIndexForward=False)
        return self._records(page, Round)

    def participants(self, run: str, number: int, attempt: int, start: Key | None) -> Page[Participant]:
        """Return participants of one attempt at a round, by device name."""
        page = self._rows("participants", run, f"participant/{number:06}/{attempt:03}/", start)
        return self._records(page, Participant)

    def devices(self, start: Key | None) -> Page[Candidate]:
        """Return devices, in no particular order."""
        answer = self._read("devices", "scan", TableName=self._devices, **_from(start))
        found = []
        for item in answer["Items"]:
            try:
                found.append(to_candidate(item))
            except _UNREADABLE:
                self.unreadable += 1
        return Page(found, answer.get("LastEvaluatedKey"))

    def device(self, name: str) -> Candidate | None:
        """Return one device, or None."""
        answer = self._read("", "get_item", TableName=self._devices, Key=marshal({"device": name}))
        with suppress(*_UNREADABLE):
            return to_candidate(answer["Item"])
        return None

    def _get(self, run: str, item: str, kind: type[Record]) -> Record | None:
        answer = self._read("", "get_item", TableName=self._rounds, Key=marshal({"run": run, "item": item}))
        if "Item" not in answer:
            return None
        return next(iter(self._records(Page([unmarshal(answer["Item"])], None), kind).items), None)

    def _rows(self, what: str, run: str, prefix: str, start: Key | None, **options: Any) -> Page[Row]:
        condition, names, values = "#run = :run", {"#run": "run"}, {":run": run}
        if prefix:
            condition += " AND begins_with(#item, :prefix)"
            names["#item"] = "item"
            values[":prefix"] = prefix
        answer = self._read(
            what,
            "query",
            TableName=self._rounds,
            KeyConditionExpression=condition,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=marshal(values),
            **_from(start),
            **options,
        )
        return Page([unmarshal(item) for item in answer["Items"]], answer.get("LastEvaluatedKey"))

    def _records(self, page: Page[Row], kind: type[Record]) -> Page[Record]:
        found = []
        for row in page.items:
            try:
                found.append(to_record(row, kind))
            except _UNREADABLE:
                self.unreadable += 1
        return Page(found, page.next)

    def _read(self, what: str, operation: str, **arguments: Any) -> Mapping[str, Any]:
        """Make a request, count its units, and adapt the length of the next page of this kind."""
        if what:
            arguments["Limit"] = limit = self._limits.get(what, _FIRST_LIMIT)
        with stack.refusals():
            answer: Mapping[str, Any] = getattr(self._client, operation)(
                **arguments, ReturnConsumedCapacity="TOTAL"
            )
        units = _units(answer)
        self.budget.spend(units)
        if what and len(answer["Items"]) == limit:
            fitting = int(limit * PAGE_UNITS / max(units, 0.5))
            self._limits[what] = max(1, min(fitting, 2 * limit, _MOST_ROWS))
        return answer


def _from(start: Key | None) -> dict[str, Any]:
    return {"ExclusiveStartKey": start} if start else {}


def _units(answer: Mapping[str, Any]) -> float:
    """Return the read units of a request; by the size of its rows if the answer does not have them."""
    consumed = answer.get("ConsumedCapacity", {}).get("CapacityUnits")
    if consumed is not None:
        return float(consumed)
    items = answer.get("Items", [answer["Item"]] if "Item" in answer else [])
    return max(1, math.ceil(len(repr(items)) / _UNIT_BYTES)) / 2
