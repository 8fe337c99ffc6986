"""Who may use the dashboard: checks of every request and websocket before the page sees it.

The page listens on 127.0.0.1, where any website that the operator visits can send requests too: by a form, by
a websocket, or under a domain that resolves to 127.0.0.1 (DNS rebinding). So every request has to
name an allowed host, anything but a plain reading has to come from the page itself, and a websocket, over
which all actions come, has to bring the cookie that the page set. On other addresses a token is needed first.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN = "token"  # noqa: S105 - the name of the parameter in the URL
_SOCKET = "/_nicegui_ws/socket.io/"
_PATHS = ("/_nicegui/", "/favicon.ico")  # in addition to the page itself and its websocket
_READING = frozenset({"GET", "HEAD"})
_POLICY_VIOLATION = 1008  # code of a closed websocket
_PAGE_ONLY = frozenset({"same-origin", "none"})  # of Sec-Fetch-Site: the page itself, or the address bar
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), usb=()"),
)
# Vue compiles the templates of NiceGUI's elements in the browser, which needs 'unsafe-eval'; Quasar and
# ECharts set styles on elements. No script without the nonce of this response runs, and nothing reaches
# another host.
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; font-src 'self'; connect-src 'self' ws://{host} wss://{host};"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REFUSED = "<!doctype html><html lang=en><title>fedgrass</title><h1>{title}</h1><p>{text}</p></html>"
# A redirect in a page of this origin, not by HTTP: after a click in a mail, the browser would leave out a
# SameSite=Strict cookie through all redirects.
_ENTER = (
    "<!doctype html><html lang=en><title>fedgrass</title><meta http-equiv=refresh content='0;url=/'>"
    "<p><a href='/'>To the dashboard</a></p></html>"
)


@dataclass(frozen=True)
class Admission:
    """Who is let in.

    Args:
        hosts: the names by which a browser may address the page, each with its port unless it is 80 or 443.
        cookie: name of the session's cookie. Browsers send it to all ports of a host, so it names the port.
        token: has to be shown once by each browser; empty: anyone who reaches the address is let in.
        session: value of the cookie; random.
    """

    hosts: frozenset[str]
    cookie: str
    token: str = ""
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32))


def local_names(address: str, port: int, more: Collection[str] = ()) -> frozenset[str]:
    """Return the names by which a browser may address the page.

    Args:
        address: that the server listens on; one that stands for all addresses has no name.
        port: of the server.
        more: further names; one without a port is allowed with the server's port and without any.
    """
    names = {"127.0.0.1", "localhost", "[::1]"} if is_loopback(address) else {_bracketed(address)}
    found = {f"{name}:{port}" for name in names}
    for name in more:
        found.add(name.lower())
        if ":" not in name.rpartition("]")[2]:
            found.add(f"{name.lower()}:{port}")
    return frozenset(found)


def is_loopback(address: str) -> bool:
    """Return whether only programs of this machine reach the address."""
    return address in {"localhost", "::1"} or address.startswith("127.")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address.lower()


class GuardedPage:
    """Let admitted requests through to the page, and give every response its security headers.

    Args:
        page: the ASGI application of the page.
        admission: who is let in.
    """

    def __init__(self, page: Application, admission: Admission) -> None:
        self._page = page
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, as ASGI calls an application."""
        if scope["type"] == "http":
            await self._handle_request(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._handle_websocket(scope, receive, send)
        else:
            await self._page(scope, receive, send)

    async def _handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        if reason := self._foreign(scope, headers):
            await _refuse(send, 403, "Refused", reason)
        elif scope["method"] not in _READING:
            await _refuse(send, 405, "Refused", "Actions come over the page's websocket.")
        elif scope["path"] != "/" and not scope["path"].startswith(_PATHS):
            await _refuse(send, 404, "Not found", "The dashboard is at <a href='/'>/</a>.")
        elif self._shows_token(scope):
            await _respond(send, 200, _ENTER, [self._set_cookie()])
        elif self._admission.token and not self._is_known(headers):
            await _refuse(
                send, 401, "Token needed", "Open the URL that <code>fedgrass dashboard</code> printed."
            )
        else:
            host = headers["host"]
            await self._page(_cleaned(scope), receive, _Secured(send, host, self._cookies(scope)).send)

    async def _handle_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        is_ours = scope["path"] == _SOCKET and "origin" in headers
        if not is_ours or self._foreign(scope, headers) or not self._is_known(headers):
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await self._page(_cleaned(scope), receive, send)

    def _foreign(self, scope: Scope, headers: dict[str, str]) -> str:
        """Return why a request does not come from the page or its address bar; empty if it does."""
        host = headers.get("host", "").lower()
        if host not in self._admission.hosts:
            return "The page is not known under this name: see <code>--allow-host</code>."
        origin = headers.get("origin")
        if origin is not None and _host_of(origin) != host:
            return "The request comes from another page."
        # A link on another site may lead to the page, which shows nothing to that site; nothing else may.
        navigates = scope.get("path") == "/" and headers.get("sec-fetch-mode") == "navigate"
        site = headers.get("sec-fetch-site", "none")
        return "" if site in _PAGE_ONLY or navigates else "The request comes from another page."

    def _shows_token(self, scope: Scope) -> bool:
        shown = parse_qs(scope.get("query_string", b"").decode("latin-1")).get(TOKEN, [""])[0]
        token = self._admission.token
        return bool(token) and scope["path"] == "/" and _equal(shown, token)

    def _is_known(self, headers: dict[str, str]) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._admission.cookie)
        except CookieError:
            return False
        return cookie is not None and _equal(cookie.value, self._admission.session)

    def _cookies(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        return [self._set_cookie()] if scope["path"] == "/" else []

    def _set_cookie(self) -> tuple[bytes, bytes]:
        value = f"{self._admission.cookie}={self._admission.session}; Path=/; HttpOnly; SameSite=Strict"
        return b"set-cookie", value.encode()


def _host_of(origin: str) -> str:
    """Return the host and port of an origin; empty if it is no URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _equal(left: str, right: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(left.encode(), right.encode())


def _headers(scope: Scope) -> dict[str, str]:
    """Return the headers; of one that occurs twice, both values, which no check accepts."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}; {text}" if key in found else text
    return found


def _cleaned(scope: Scope) -> Scope:
    """Return the scope without the headers of proxies, from which NiceGUI would build addresses."""
    kept = [
        pair for pair in scope["headers"] if not pair[0].lower().startswith((b"x-forwarded", b"forwarded"))
    ]
    return {**scope, "headers": kept}


class _Secured:
    """Sends a response with the security headers, and with a nonce in each script element of a page."""

    def __init__(self, send: Send, host: str, cookies: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._host = host
        self._cookies = cookies
        self._nonce = secrets.token_urlsafe(16)
        self._start: Message | None = None  # of a page, which is held back until its length is known
        self._body = b""

    async def send(self, message: Message) -> None:
        """Pass on a message of the page's response."""
        if message["type"] == "http.response.start":
            content_policy = _CONTENT_POLICY.format(nonce=self._nonce, host=self._host).encode()
            own = [*_HEADERS, (b"content-security-policy", content_policy), *self._cookies]
            headers = [*message.get("headers", []), *own]
            message = {**message, "headers": headers}
            if any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers):
                self._start = message
                return
        elif self._start is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            await self._send_page(self._start)
            return
        await self._send(message)

    async def _send_page(self, start: Message) -> None:
        # NiceGUI escapes every `<` in texts and properties of elements: all of these are its own scripts.
        body = self._body.replace(b"<script", f'<script nonce="{self._nonce}"'.encode())
        headers = [pair for pair in start["headers"] if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, status: int, title: str, text: str) -> None:
    await _respond(send, status, _REFUSED.format(title=title, text=text), [])


async def _respond(send: Send, status: int, html: str, more: list[tuple[bytes, bytes]]) -> None:
    body = html.encode()
    headers = [
        *_HEADERS,
        (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
