"""What MiniStack 1.5.33 does not do as AWS does, set right in the embedded cloud's child process.

- It looks for due schedules every 10 s and has no setting for it: coarse for a round's deadline.
- Where policies count, it takes every schedule for one of the group ``default``, so that a policy that names
  a group, as a stack's own should, allows nothing.
- There, too, it takes a request for one without TLS, which bucket policies refuse. It is one that never
  leaves this machine, and counts as one with.
- It rewrites the numbers of a transaction (0.0 becomes 0) before it remembers it by its token. The same one
  again, since its answer was lost, it then refuses as another with that token.
- It copies an object over another although the request forbids that with ``If-None-Match: *``.
- It serves MQTT clients without a certificate; AWS IoT Core requires one.
- It pauses a new MQTT connection before the event loop has begun to read from it. CPython before 3.11.5 then
  reads all the same, and the ClientHello is lost: no device can connect.
- It derives the secret key of a function's role from names that are not secret, and lets a function act under
  the account's number where policies are not enforced. `RequestGuard` needs a secret for each.
- A template's parameter is a text to it, also where a queue's MaximumConcurrency is a number.
"""

import asyncio
import copy
import hashlib
import hmac
import json
import os
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from ministack import app
from ministack.core import iam_actions, lambda_runtime
from ministack.core.iam_evaluator import pin_request_origin
from ministack.services import dynamodb, iot, lambda_svc, s3, scheduler, sts

SCHEDULER_TICK_SECONDS = 1.0


def mend() -> None:
    """Mend it, once, before it serves."""
    scheduler._SCHEDULE_TICK_INTERVAL = SCHEDULER_TICK_SECONDS  # noqa: SLF001  # there is no public setting
    app.pin_request_origin = lambda address, _secure: pin_request_origin(address, secure_transport=True)
    dynamodb._transact_write_items = remembering(dynamodb._transact_write_items)  # noqa: SLF001
    s3._copy_object = copying_once(s3._copy_object)  # noqa: SLF001
    iot._mtls_build_ssl_context = requiring_certificates(iot._mtls_build_ssl_context)  # noqa: SLF001
    iot._MtlsAcceptor.connection_made = once_reading(iot._MtlsAcceptor.connection_made)  # noqa: SLF001
    lambda_runtime.execution_credentials = with_secrets(lambda_runtime.execution_credentials)
    lambda_svc.execution_credentials = lambda_runtime.execution_credentials
    # Not above: jsonata, which it imports, raises the process's recursion limit.
    from ministack.services.cloudformation import provisioners  # noqa: PLC0415

    mappings = provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]  # noqa: SLF001
    mappings["create"], mappings["update"] = in_numbers(mappings["create"]), in_numbers(mappings["update"])
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


def requiring_certificates(build: Callable[[], ssl.SSLContext]) -> Callable[[], ssl.SSLContext]:
    """Return a function that builds the broker's TLS context so that a client must present a certificate."""

    def build_strictly() -> ssl.SSLContext:
        context = build()
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    return build_strictly


def once_reading(accept: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Return a ``connection_made`` that runs after the event loop has begun to read from the connection.

    asyncio queues both when it accepts a connection, in this order; what is queued here comes after them and
    before anything that was read.
    """

    def connection_made(protocol: Any, transport: Any) -> None:
        asyncio.get_running_loop().call_soon(accept, protocol, transport)

    return connection_made


def with_secrets(
    issue: Callable[[dict[str, Any]], dict[str, str]],
) -> Callable[[dict[str, Any]], dict[str, str]]:
    """Return a function that issues a Lambda function's credentials with a secret that cannot be computed.

    Where policies do not count, the function gets the owner's credentials.
    """

    def issue_secretly(config: dict[str, Any]) -> dict[str, str]:
        issued = issue(config)
        owner = {name: os.environ.get(name, "") for name in issued}
        session = sts._sessions.get(issued["AWS_ACCESS_KEY_ID"])  # noqa: SLF001  # nothing public returns it
        if session is None:
            return owner
        key = owner["AWS_SECRET_ACCESS_KEY"].encode()
        secret = hmac.new(key, issued["AWS_SECRET_ACCESS_KEY"].encode(), hashlib.sha256).hexdigest()
        session["SecretAccessKey"] = secret
        return {**issued, "AWS_SECRET_ACCESS_KEY": secret}

    return issue_secretly


def in_numbers(provision: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that provisions an event source mapping with a concurrency given as text."""

    def provision_in_numbers(*arguments: Any) -> Any:
        for properties in arguments:
            if isinstance(properties, dict) and (scaling := properties.get("ScalingConfig")):
                properties["ScalingConfig"] = {name: int(value) for name, value in scaling.items()}
        return provision(*arguments)

    return provision_in_numbers


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
