"""Authenticate every request to the embedded cloud before it reaches MiniStack.

MiniStack accepts the access key ``test``, any account number and no key at all as the account's owner, and
any ``Host`` and ``Origin``. Its Lambda functions are local processes, so without this guard any web page in
the developer's browser could run code on the machine. Therefore:

- ``Host`` must be a loopback name (after DNS rebinding, a page sends its own domain name), and requests that
  a browser sends for a page are refused;
- every request must be signed with Signature Version 4, by the random key of the owner or by credentials that
  the cloud itself issued;
- the only WebSockets are those of MQTT clients with such a signature, which the operator's console is;
- MiniStack's own API is closed, except for two resources without secrets, and the code of functions, which
  has a presigned address.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from ministack.core import iam_evaluator, sigv4
from ministack.core.responses import get_account_id

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_PUBLIC_PATHS = ("/_ministack/ready", "/_ministack/iot/ca.pem")
_SIGNED_PATH = "/_ministack/lambda-code/"
_OWN_API = ("/_ministack", "/_localstack", "/health")
_STREAMING_SIGNATURE = "STREAMING-AWS4-HMAC-SHA256"
_LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.IGNORECASE)
# The name that IoT's DescribeEndpoint returns, which is signed; the connection is to 127.0.0.1.
_IOT_HOST = re.compile(r"[0-9a-z-]+\.iot\.[0-9a-z-]+\.localhost(:[0-9]{1,5})?", re.IGNORECASE)
_MQTT_PATH, _MQTT_SERVICE = "/mqtt", "iotdevicegateway"
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


class RequestGuard:
    """An ASGI application that refuses requests without a valid signature and forwards the others."""

    def __init__(self, application: Application, owner_key: str) -> None:
        """Guard ``application``; the owner of its account has the access key ``owner_key``."""
        self._application = application
        self._owner_key = owner_key

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket" and not self._is_signed_mqtt(_Request.of(scope)):
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        if scope["type"] == "http":
            request = _Request.of(scope)
            refusal = self._foreign(request) or self._closed(request)
            if refusal is None and request.path not in _PUBLIC_PATHS:
                if request.signs_its_body:
                    request, receive = await _with_body(request, receive)
                refusal = self._unauthenticated(request)
            if refusal is not None:
                await _refuse(send, refusal)
                return
        await self._application(scope, receive, send)

    def _is_signed_mqtt(self, request: "_Request") -> bool:
        """Return whether a WebSocket is the operator's, to the broker of IoT Core, and signed for it."""
        signed = sigv4.parse_query_signature(request.query)
        return (
            request.path == _MQTT_PATH
            and bool(_IOT_HOST.fullmatch(request.headers.get("host", "")))
            and "origin" not in request.headers  # a web page cannot leave it out
            and not isinstance(signed, tuple)
            and signed.service == _MQTT_SERVICE
            and self._unauthenticated(request) is None
        )

    @staticmethod
    def _foreign(request: "_Request") -> str | None:
        if not _LOOPBACK_HOST.fullmatch(request.headers.get("host", "")):
            return "the Host header does not name the embedded cloud of this machine"
        if "origin" in request.headers or request.headers.get("sec-fetch-site", "none") != "none":
            return "the embedded cloud does not serve web pages"
        return None

    @staticmethod
    def _closed(request: "_Request") -> str | None:
        if not request.path.startswith(_OWN_API):
            return None
        is_open = request.path in _PUBLIC_PATHS or request.path.startswith(_SIGNED_PATH)
        if request.method == "GET" and is_open:
            return None
        return "this part of MiniStack's own API is closed"

    def _unauthenticated(self, request: "_Request") -> str | None:
        """Return why the signature of a request is invalid, None if it is valid."""
        query_signed = "authorization" not in request.headers
        parsed = (
            sigv4.parse_query_signature(request.query)
            if query_signed
            else sigv4.parse_header_signature(request.headers)
        )
        if isinstance(parsed, tuple):
            return str(parsed[1])
        if parsed.access_key_id != self._owner_key and iam_evaluator.is_root_access_key(parsed.access_key_id):
            return "the access key is not one of the embedded cloud's"
        token = (
            "".join(request.query.get("X-Amz-Security-Token", []))
            if query_signed
            else request.headers.get("x-amz-security-token", "")
        )
        credential = iam_evaluator.resolve_credential(parsed.access_key_id, get_account_id(), token)
        if isinstance(credential, iam_evaluator.CredentialResolutionError):
            return str(credential.message)
        late: tuple[str, str] | None = (
            self._expired(request) if query_signed else sigv4.request_time_failure(parsed)
        )
        failure: tuple[str, str] | None = late or sigv4.header_signature_failure(
            parsed,
            credential.secret_access_key,
            request.method,
            request.raw_path,
            request.query,
            request.headers,
            request.body,
            presigned=query_signed,
        )
        return failure[1] if failure else None

    @staticmethod
    def _expired(request: "_Request") -> tuple[str, str] | None:
        date, seconds = ("".join(request.query.get(f"X-Amz-{name}", [])) for name in ("Date", "Expires"))
        try:
            expired = sigv4.presigned_request_is_expired(date, seconds)
        except ValueError:
            expired = True
        return ("AccessDenied", "the presigned URL has expired") if expired else None


@dataclass(frozen=True)
class _Request:
    """The parts of an HTTP request that its signature covers."""

    method: str
    path: str
    raw_path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes = b""

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> "_Request":
        """Return the request of an ASGI scope."""
        raw = scope.get("raw_path") or scope["path"].encode()
        query = parse_qs(scope.get("query_string", b"").decode("utf-8", "replace"), keep_blank_values=True)
        return cls(
            scope.get("method", "GET"),
            scope["path"],
            raw.decode("latin-1"),
            query,
            _joined(scope.get("headers", ())),
        )

    @property
    def signs_its_body(self) -> bool:
        """Whether the body is needed to check the signature; S3 clients send its hash in a header instead."""
        given = self.headers.get("x-amz-content-sha256", "")
        return not given or given.startswith(_STREAMING_SIGNATURE)


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers by lower-case name; repeated headers are joined as in Signature Version 4."""
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), sigv4.decode_header_value(value)
        found[key] = f"{found[key]},{text}" if key in found else text
    return found


async def _with_body(request: _Request, receive: Receive) -> tuple[_Request, Receive]:
    """Return the request with its body, and a ``receive`` that delivers the body to the application."""
    messages: list[Message] = []
    more = True
    while more:
        messages.append(await receive())
        more = bool(messages[-1].get("more_body", False))
    body = b"".join(message.get("body", b"") for message in messages)
    remaining = iter(messages)

    async def again() -> Message:
        message = next(remaining, None)
        return await receive() if message is None else message

    known = {**request.__dict__, "body": body}
    return _Request(**known), again


async def _refuse(send: Send, reason: str) -> None:
    """Respond with 403 and an error in the format of AWS's JSON services."""
    body = json.dumps({"__type": "AccessDeniedException", "message": f"embedded cloud: {reason}"}).encode()
    headers = [(b"content-type", b"application/x-amz-json-1.0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
