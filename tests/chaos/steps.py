"""The named steps of the cloud functions, recognised by the request to AWS that each makes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """One HTTP request to AWS, as it came."""

    method: str
    target: str  # path and query
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path, without what escapes it."""
        return unquote(urlsplit(self.target).path)

    @property
    def operation(self) -> str:
        """DynamoDB's operation; empty for other services."""
        name, _, operation = self.headers.get("X-Amz-Target", "").partition(".")
        return operation if name.startswith("DynamoDB") else ""

    @property
    def service(self) -> str:
        """The service that the request is signed for, such as ``s3``; empty if it is not signed."""
        scope = self.headers.get("Authorization", "").partition("Credential=")[2].partition(",")[0]
        return scope.split("/")[3] if scope.count("/") == 4 else ""


# Each by the function that takes it, in the order in which it does.
OPENING = (
    "cohort_written",
    "participants_stored",
    "alarm_set",
    "round_opened",
    "announcement",
    "announcements_noted",
)
STEPS: Mapping[str, tuple[str, ...]] = {
    "initiator": ("run_stored", *OPENING),
    "averager": (
        "reply_counted",
        "verdict_told",
        "lease_taken",
        "update_read",
        "model_drafted",
        "round_drafted",
        "round_closed",
        "alarm_cancelled",
        "model_written",
        "newest_model_written",
        *OPENING,
        "round_abandoned",
        "run_ended",
    ),
}


def step_of(request: Request) -> str:
    """Return the step that a function takes with this request; empty for a request that moves nothing."""
    if request.operation:
        return _step_in_table(request)
    if request.service == "s3":
        return _step_in_bucket(request)
    if request.service == "scheduler":
        return {"POST": "alarm_set", "DELETE": "alarm_cancelled"}.get(request.method, "")
    if request.path.endswith("/announce"):
        return "verdict_told" if b'"verdict"' in request.body else "announcement"
    return ""


def _step_in_bucket(request: Request) -> str:
    folder, _, rest = request.path.lstrip("/").partition("/")[2].partition("/")
    if request.method == "GET":
        return "update_read" if folder == "updates" else ""
    if request.method != "PUT":
        return ""
    if folder == "models":
        return "newest_model_written" if rest.endswith("latest.json") else "model_written"
    if folder == "drafts":
        return "round_drafted" if rest.endswith("round.json") else "model_drafted"
    return "cohort_written" if folder == "rounds" else ""


# What a write names tells which step it is: the first that fits.
_BY_COLUMN = {
    "announced": "announcements_noted",
    "model_sha256": "round_closed",
    "lease_until": "lease_taken",
    "ended_at": "run_ended",
    "replied": "reply_counted",
    "closed_at": "round_abandoned",
}


def _step_in_table(request: Request) -> str:
    if request.operation not in {"TransactWriteItems", "UpdateItem"}:
        return ""
    items: set[str] = set()
    columns: set[str] = set()
    for write in _writes(json.loads(request.body)):
        items.add(write.get("Item", {}).get("item", {}).get("S", ""))
        columns |= set(write.get("ExpressionAttributeNames", {}).values())
    if any(item.startswith("round/") for item in items):
        return "round_opened"
    if any(item.startswith("participant/") for item in items):
        return "participants_stored"
    if "run" in items:
        return "run_stored"
    return next((step for column, step in _BY_COLUMN.items() if column in columns), "")


def _writes(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for action in body.get("TransactItems", []):
        yield from action.values()
    if "TransactItems" not in body:
        yield body
