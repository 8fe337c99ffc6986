"""Patches for differences between MiniStack 1.5.33 and AWS, applied in the child process.

- It checks for due schedules every 10 s, without a setting: too coarse for the deadline of a round.
- When policies are enforced, it treats every schedule as one of the group ``default``, so that a policy for
  another group grants nothing.
- When policies are enforced, it treats every request as one without TLS, which bucket policies refuse.
  Requests never leave this machine, so they count as secure.
- It normalizes the numbers of a transaction (0.0 becomes 0) before it records it by its token, and then
  refuses a retry of the same transaction as a different one.
- It overwrites an object by a copy with ``If-None-Match: *``.
- It accepts MQTT clients without a certificate; AWS IoT Core requires one.
- It pauses a new MQTT connection before the event loop starts to read from it. CPython before 3.11.5 reads
  anyway, and the ClientHello is lost: no device can connect.
- It derives the secret key of a function's role from public names, and uses the account number as key when
  policies are not enforced. `RequestGuard` needs a secret for each.
- It returns the address of a function's code with a fixed signature, which `RequestGuard` refuses: here the
  account's owner signs it, as AWS does.
- It copies rows of DynamoDB several times per write by `copy.deepcopy`, which is slow for plain JSON.
- It parses the key condition of a query again for each row of the partition (key_conditions.py).
- It compares each MQTT message with every subscription: with 1,000 devices that takes most of its time.
- Parameters of a template are text, even for the number MaximumConcurrency of a queue.
"""

import asyncio
import copy
import hashlib
import hmac
import json
import os
import ssl
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from ministack import app
from ministack.core import iam_actions, lambda_runtime
from ministack.core.iam_evaluator import pin_request_origin
from ministack.services import dynamodb, iot, lambda_svc, s3, scheduler, sts

from fedgrass.local.aws.key_conditions import parsing_once
from fedgrass.local.aws.topic_index import IndexedSubscriptions, published_on

_SCHEDULER_TICK_SECONDS = 1.0
_IMMUTABLE = frozenset({str, int, float, bool, bytes, type(None)})
_CODE_SECONDS = 600  # for which the address of a function's code is valid, as on AWS


def apply_patches() -> None:
    """Apply all patches; to be called once, before MiniStack serves requests."""
    scheduler._SCHEDULE_TICK_INTERVAL = _SCHEDULER_TICK_SECONDS  # noqa: SLF001 - there is no public setting
    app.pin_request_origin = lambda address, _secure: pin_request_origin(address, secure_transport=True)
    dynamodb._transact_write_items = recording_as_received(dynamodb._transact_write_items)  # noqa: SLF001 - as above
    dynamodb._evaluate_condition = parsing_once(dynamodb._evaluate_condition)  # noqa: SLF001 - as above
    dynamodb.copy = SimpleNamespace(deepcopy=copied_json)
    s3._copy_object = copying_once(s3._copy_object)  # noqa: SLF001 - as above
    iot._mtls_build_ssl_context = requiring_certificates(iot._mtls_build_ssl_context)  # noqa: SLF001 - as above
    iot._MtlsAcceptor.connection_made = once_reading(iot._MtlsAcceptor.connection_made)  # noqa: SLF001 - as above
    iot._subscriptions = IndexedSubscriptions()  # noqa: SLF001 - as above
    iot.broker_publish = published_on(iot.broker_publish)
    lambda_runtime.execution_credentials = with_secrets(lambda_runtime.execution_credentials)
    lambda_svc.execution_credentials = lambda_runtime.execution_credentials
    lambda_svc._presigned_code_url = signing(lambda_svc._presigned_code_url)  # noqa: SLF001 - as above
    # Imported here: jsonata, which it imports, raises the recursion limit of the process.
    from ministack.services.cloudformation import provisioners  # noqa: PLC0415 - see above

    mappings = provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]  # noqa: SLF001 - as above
    mappings["create"], mappings["update"] = in_numbers(mappings["create"]), in_numbers(mappings["update"])
    original = iam_actions.extract_resource_arn

    def extract_resource_arn(  # noqa: PLR0913, PLR0917 - the signature of MiniStack
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
        found: str = original(service, method, path, headers, body, query, region, account)
        return found

    iam_actions.extract_resource_arn = extract_resource_arn


def recording_as_received(write: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """Return a ``write`` that records a transaction by its token before its numbers are normalized."""

    def record(transaction: dict[str, Any]) -> Any:
        received = copy.deepcopy(transaction)
        response = write(transaction)
        token = received.pop("ClientRequestToken", None)
        if token and (recorded := dynamodb._txn_token_lookup(token)):  # noqa: SLF001 - as above
            recorded["signature"] = recorded.setdefault("received", received)
        return response

    return record


def copied_json(value: Any) -> Any:
    """Return a deep copy; of dicts and lists of plain values in a third of the time of ``copy.deepcopy``."""
    kind = type(value)
    if kind is dict:
        return {key: copied_json(part) for key, part in value.items()}
    if kind is list:
        return [copied_json(part) for part in value]
    return value if kind in _IMMUTABLE else copy.deepcopy(value)


def copying_once(copy_object: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``copy_object`` that checks the preconditions of the request on the target."""

    def copy_if(bucket: str, key: str, headers: dict[str, str]) -> Any:
        there = s3._buckets.get(bucket, {}).get("objects", {}).get(key)  # noqa: SLF001 - as above
        refused = s3._check_put_preconditions(headers, there)  # noqa: SLF001 - as above
        return refused or copy_object(bucket, key, headers)

    return copy_if


def requiring_certificates(build: Callable[[], ssl.SSLContext]) -> Callable[[], ssl.SSLContext]:
    """Return a ``build`` of the broker's TLS context that requires a certificate of each client."""

    def build_strictly() -> ssl.SSLContext:
        context = build()
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    return build_strictly


def once_reading(accept: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Return a ``connection_made`` that runs after the event loop has started to read from the connection.

    asyncio queues both callbacks when it accepts a connection, in this order. A callback that is queued here
    runs after them, and before any data is delivered.
    """

    def connection_made(protocol: Any, transport: Any) -> None:
        asyncio.get_running_loop().call_soon(accept, protocol, transport)

    return connection_made


def signing(locate: Callable[[str], str]) -> Callable[[str], str]:
    """Return a ``locate`` whose URL of a function's code is signed by the owner of the account."""

    def locate_signed(function: str) -> str:
        port, path = os.environ["GATEWAY_PORT"], urlsplit(locate(function)).path
        request = AWSRequest("GET", f"http://127.0.0.1:{port}{path}")
        owner = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        S3SigV4QueryAuth(owner, "s3", os.environ["AWS_REGION"], expires=_CODE_SECONDS).add_auth(request)
        return str(request.url)

    return locate_signed


def with_secrets(
    issue: Callable[[dict[str, Any]], dict[str, str]],
) -> Callable[[dict[str, Any]], dict[str, str]]:
    """Return an ``issue`` of a Lambda function's credentials with a secret that cannot be derived.

    When policies are not enforced, the function gets the credentials of the owner.
    """

    def issue_secretly(config: dict[str, Any]) -> dict[str, str]:
        issued = issue(config)
        owner = {name: os.environ.get(name, "") for name in issued}
        session = sts._sessions.get(issued["AWS_ACCESS_KEY_ID"])  # noqa: SLF001 - there is no public function
        if session is None:
            return owner
        key = owner["AWS_SECRET_ACCESS_KEY"].encode()
        secret = hmac.new(key, issued["AWS_SECRET_ACCESS_KEY"].encode(), hashlib.sha256).hexdigest()
        session["SecretAccessKey"] = secret
        return {**issued, "AWS_SECRET_ACCESS_KEY": secret}

    return issue_secretly


def in_numbers(provision: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``provision`` of event source mappings that accepts a concurrency given as text."""

    def provision_in_numbers(*arguments: Any) -> Any:
        for properties in arguments:
            if isinstance(properties, dict) and (scaling := properties.get("ScalingConfig")):
                properties["ScalingConfig"] = {name: int(value) for name, value in scaling.items()}
        return provision(*arguments)

    return provision_in_numbers


def group_of(body: bytes, query: Mapping[str, Any]) -> str:
    """Return the group in a request for a schedule: from its body (create, update), otherwise its query."""
    in_query = query.get("groupName")
    if isinstance(in_query, list):
        in_query = in_query[0] if in_query else None
    try:
        in_body = json.loads(body or b"{}").get("GroupName")
    except (ValueError, AttributeError):
        in_body = None  # not a JSON object, which the service itself refuses
    group = in_body or in_query
    return group if isinstance(group, str) and group else "default"
