"""An operator over ports in memory, and AWS clients with rows and things that a test fills in."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Self

from botocore.exceptions import ClientError

from cloud_functions.aws.dynamodb_table import marshal
from cloud_functions.devices import forget_device
from fedgrass.federation.rounds import Participant, Round
from fedgrass.federation.selection import Candidate
from tests.fakes.small_fleet import SmallFleet

NOW = 1_700_000_000_000
_MISSING = "ResourceNotFoundException"
CERTIFICATE = "c" * 64
EXPIRY = datetime(2027, 1, 2, tzinfo=UTC)


class DeviceOperator:
    """The operator of a small fleet, as far as the commands of devices use it."""

    def __init__(self, fleet: SmallFleet) -> None:
        self.fleet = fleet
        self.forgotten: list[tuple[str, int]] = []

    def devices(self) -> list[Candidate]:
        return list(self.fleet.devices.seen_since(0))

    def device(self, name: str) -> Candidate | None:
        return self.fleet.devices.find(name)

    def round(self, name: str, number: int, attempt: int = 1) -> Round | None:
        return self.fleet.rounds.round(name, number, attempt)

    def participant(self, round_: Round, device: str) -> Participant | None:
        return self.fleet.rounds.participant(round_, device)

    def latest_rounds(self) -> Iterator[Round]:
        for name in self.fleet.rounds.living():
            yield from self.fleet.rounds.rounds_from(name, 1, self.fleet.run(name).round)

    def forget(self, device: str, last_seen: int) -> bool:
        self.forgotten.append((device, last_seen))
        event = {"action": "forget", "device": device, "last_seen": last_seen}
        return bool(forget_device.forget(self.fleet.cloud, event)["forgotten"])


class Pages:
    """The paginator of one operation, with one page."""

    def __init__(self, page: Mapping[str, Any] | ClientError) -> None:
        self._page = page

    def paginate(self, **_: object) -> list[Mapping[str, Any]]:
        if isinstance(self._page, ClientError):
            raise self._page
        return [self._page]


class Turnarounds:
    """The ``dynamodb`` client of a turnarounds table, with its index by device."""

    def __init__(self, *rows: Mapping[str, object]) -> None:
        self.rows = list(rows)
        self.refused: ClientError | None = None

    def get_paginator(self, _: str) -> Self:
        return self

    def paginate(self, **query: Any) -> list[Mapping[str, Any]]:
        if self.refused:
            raise self.refused
        device = query["ExpressionAttributeValues"][":device"]["S"]
        found = [row for row in self.rows if row["device"] == device]
        found.sort(key=lambda row: -int(str(row["received_at"])))
        return [{"Items": [marshal(row) for row in found[: query["PaginationConfig"]["MaxItems"]]]}]

    def query(self, **query: Any) -> Mapping[str, Any]:
        name = query["ExpressionAttributeValues"][":round"]["S"]
        return {"Items": [marshal(row) for row in self.rows if row["round_id"] == name]}


class Things:
    """The ``iot`` client of an account with one thing, ``thing-1``."""

    def __init__(self) -> None:
        self.refused: dict[str, ClientError] = {}
        self.certificate: dict[str, Any] = {"status": "ACTIVE", "validity": {"notAfter": EXPIRY}}

    def describe_thing(self, **asked: str) -> Mapping[str, Any]:
        self._check("describe_thing")
        if asked["thingName"] != "thing-1":
            raise refusal(_MISSING)
        return {"thingTypeName": "press", "attributes": {"hall": "3"}}

    def get_paginator(self, operation: str) -> Pages:
        if operation in self.refused:
            return Pages(self.refused[operation])
        arn = f"arn:aws:iot:eu-west-1:123456789012:cert/{CERTIFICATE}"
        pages: dict[str, Mapping[str, Any]] = {
            "list_thing_groups_for_thing": {"thingGroups": [{"groupName": "presses"}, {"groupName": "all"}]},
            "list_thing_principals": {"principals": [arn, "eu-west-1:0-1-cognito-identity"]},
        }
        return Pages(pages[operation])

    def describe_certificate(self, **_: str) -> Mapping[str, Any]:
        self._check("describe_certificate")
        return {"certificateDescription": self.certificate}

    def _check(self, operation: str) -> None:
        if operation in self.refused:
            raise self.refused[operation]


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "Operation")


def completion(
    name: str, device: str, at: int = NOW, seconds: tuple[float, ...] = (1, 1, 2, 1), **changes: object
) -> dict[str, object]:
    """Return the row of a completion that took ``seconds`` for its parts, and one more."""
    download, evaluate, train, upload = seconds
    return {
        "round_id": name,
        "device": device,
        "received_at": at,
        "announced_at": at - round(sum(seconds) * 1000) - 1000,
        "turnaround_ms": round(sum(seconds) * 1000) + 1000,
        "bytes": 1_000,
        "examples": 40,
        "expires_at": 1,
        "download_seconds": download,
        "evaluate_seconds": evaluate,
        "train_seconds": train,
        "upload_seconds": upload,
        **changes,
    }


def decline(
    name: str, device: str, at: int = NOW, state: str = "declined", reason: str = "battery"
) -> dict[str, object]:
    """Return the row of a device that declined or failed."""
    row: dict[str, object] = {"round_id": name, "device": device, "received_at": at, "expires_at": 1}
    return row | {"state": state, "reason": reason}
