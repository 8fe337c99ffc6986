"""The named steps of the cloud functions, recognised by their requests to AWS."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """One HTTP request to AWS."""

    method: str
    target: str  # path and query
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path, unquoted."""
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


# By function, in the order of the steps.
OPENING = (
    "cohort_written",
    "participants_stored",
    "alarm_set",
    "round_opened",
    "announcement",
    "announcements_noted",
)
GROUPS = ("group_begun", "group_handed_over", "group_summed", "group_noted", "group_sum_read")
SHARDS = ("shard_handed_over", "shard_written", "shard_noted", "shards_taken", "shard_read")
STEPS: Mapping[str, tuple[str, ...]] = {
    "initiator": ("beside_model_written", "reminder_sent", "run_stored", "run_kept", *OPENING),
    "averager": (
        "reply_counted",
        "verdict_told",
        *GROUPS,
        "lease_taken",
        "update_read",
        "update_refused",
        *SHARDS,
        "model_drafted",
        "beside_model_drafted",
        "round_drafted",
        "round_closed",
        "alarm_cancelled",
        "round_kept",
        "model_written",
        "beside_model_written",
        "newest_model_written",
        "end_noted",
        *OPENING,
        "reminder_sent",
        "round_abandoned",
        "run_ended",
    ),
    "server_app": (
        "start_asked",
        "devices_asked",
        "content_written",
        "messages_listed",
        "send_asked",
        "update_read",
        "state_kept",
        "finish_asked",
    ),
}


def step_of(request: Request) -> str:
    """Return the step of a function's request; empty for a request that changes nothing."""
    if request.operation:
        return _step_in_table(request)
    if request.service == "s3":
        return _step_in_bucket(request)
    if request.service == "sqs":
        return _step_in_queue(request)
    if request.service == "lambda" and request.path.endswith("/invocations"):
        return f"{json.loads(request.body)['action']}_asked"
    if request.service == "scheduler":
        return {"POST": "alarm_set", "DELETE": "alarm_cancelled"}.get(request.method, "")
    if request.path.endswith("/announce"):
        return "verdict_told" if b'"verdict"' in request.body else "announcement"
    return ""


# Steps by the key of the written object: the first match applies.
_BY_KEY = (
    (r"models/[^/]+/latest\.json", "newest_model_written"),
    (r"models/[^/]+/\d+\.safetensors", "model_written"),
    (r"models/[^/]+/content/", "content_written"),
    (r"models/", "beside_model_written"),  # the server's state, or the model as devices download it
    (r"rounds/[^/]+/run\.json", "run_kept"),
    (r"rounds/[^/]+/\d+-\d+\.json", "cohort_written"),
    (r"rounds/[^/]+/\d+\.messages\.json", "messages_listed"),
    (r"rounds/[^/]+/server_app\.safetensors", "state_kept"),
    (r"rounds/", "round_kept"),
    (r"drafts/.*/parts/sum-", "group_summed"),
    (r"drafts/.*/parts/group-", "group_noted"),
    (r"drafts/.*/parts/.*-made", "shard_noted"),
    (r"drafts/.*/parts/", "shard_written"),
    (r"drafts/.*/round\.json", "round_drafted"),
    (r"drafts/.*/model\.safetensors", "model_drafted"),
    (r"drafts/", "beside_model_drafted"),
)
_READ_BY_KEY = (
    (r"updates/", "update_read"),
    (r"drafts/.*/parts/sum-", "group_sum_read"),
    (r"drafts/.*/parts/.*/\d+-(?!made)", "shard_read"),
)


def _step_in_bucket(request: Request) -> str:
    key = request.path.lstrip("/").partition("/")[2]
    table = {"PUT": _BY_KEY, "GET": _READ_BY_KEY}.get(request.method, ())
    return next((step for pattern, step in table if re.match(pattern, key)), "")


def _step_in_queue(request: Request) -> str:
    said = json.loads(json.loads(request.body).get("MessageBody", "{}"))
    if "reminder" in said:
        return "reminder_sent"
    return f"{said['job']['kind']}_handed_over" if "job" in said else ""


# Steps by the names in a write: the first match applies.
_BY_COLUMN = {
    "announced_batches": "announcements_noted",
    "model_sha256": "round_closed",
    "leased_at": "lease_taken",
    "lease_until": "shards_taken",
    "groups": "group_begun",
    "published": "end_noted",
    "ended_at": "run_ended",
    "replied": "reply_counted",
    "refused": "update_refused",
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
