"""What MiniStack 1.5.33 does not do as AWS does, set right in the embedded cloud's child process.

- It looks for due schedules every 10 s and has no setting for it: coarse for a round's deadline.
- Where policies count, it takes every schedule for one of the group ``default``, so that a policy that names
  a group, as a stack's own should, allows nothing.
- There, too, it takes a request for one without TLS, which bucket policies refuse. It is one that never
  leaves this machine, and counts as one with.
- It rewrites the numbers of a transaction (0.0 becomes 0) before it remembers it by its token. The same one
  again, since its answer was lost, it then refuses as another with that token.
- It copies an object over another although the request forbids that with ``If-None-Match: *``.
"""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from ministack import app
from ministack.core import iam_actions
from ministack.core.iam_evaluator import pin_request_origin
from ministack.services import dynamodb, s3, scheduler

SCHEDULER_TICK_SECONDS = 1.0


def mend() -> None:
    """Mend it, once, before it serves."""
    scheduler._SCHEDULE_TICK_INTERVAL = SCHEDULER_TICK_SECONDS  # noqa: SLF001  # there is no public setting
    app.pin_request_origin = lambda address, _secure: pin_request_origin(address, secure_transport=True)
    dynamodb._transact_write_items = remembering(dynamodb._transact_write_items)  # noqa: SLF001
    s3._copy_object = copying_once(s3._copy_object)  # noqa: SLF001
    as_it_is = iam_actions.extract_resource_arn

    def extract_resource_arn(  # noqa: PLR0913, PLR0917  # the signature is MiniStack's
        service: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        query: Mapping[str, Any],
        region: str,
        account: str,
    ) -> str:
        if service == "scheduler" and path.startswith("/schedules/"):
            name, group = unquote(path.removeprefix("/schedules/")), group_of(body, query)
            return f"arn:aws:scheduler:{region}:{account}:schedule/{group}/{name}"
        found: str = as_it_is(service, method, path, headers, body, query, region, account)
        return found

    iam_actions.extract_resource_arn = extract_resource_arn


def remembering(write: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """Return what makes a transaction, and remembers it by its token as it came."""

    def remember(transaction: dict[str, Any]) -> Any:
        came = copy.deepcopy(transaction)
        answer = write(transaction)
        token = came.pop("ClientRequestToken", None)
        if token and (remembered := dynamodb._txn_token_lookup(token)):  # noqa: SLF001
            remembered["signature"] = remembered.setdefault("came", came)
        return answer

    return remember


def copying_once(copy_object: Callable[..., Any]) -> Callable[..., Any]:
    """Return what copies an object, if what the request expects of the target holds."""

    def copy_if(bucket: str, key: str, headers: dict[str, str]) -> Any:
        there = s3._buckets.get(bucket, {}).get("objects", {}).get(key)  # noqa: SLF001
        refused = s3._check_put_preconditions(headers, there)  # noqa: SLF001
        return refused or copy_object(bucket, key, headers)

    return copy_if


def group_of(body: bytes, query: Mapping[str, Any]) -> str:
    """Return the group that a request about a schedule names: in its body to make one, else in its query."""
    asked = query.get("groupName")
    if isinstance(asked, list):
        asked = asked[0] if asked else None
    try:
        told = json.loads(body or b"{}").get("GroupName")
    except (ValueError, AttributeError):
        told = None  # no JSON object: the service itself says so
    group = told or asked
    return group if isinstance(group, str) and group else "default"
