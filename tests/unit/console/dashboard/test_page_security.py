import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from fedgrass.console.dashboard.page_security import (
    Admission,
    GuardedPage,
    Message,
    Receive,
    Scope,
    Send,
    is_loopback,
    local_names,
)

HOST = "127.0.0.1:8321"
PAGE = b"<html><script>start()</script><script type='module'>more()</script></html>"
OPEN = Admission(hosts=local_names("127.0.0.1", 8321), cookie="fedgrass_dashboard_8321", session="s3ss1on")
LOCKED = Admission(hosts=OPEN.hosts, cookie=OPEN.cookie, session="s3ss1on", token="t0ken")  # noqa: S106
COOKIE = f"{OPEN.cookie}=s3ss1on"


class Page:
    """The page behind the guard; keeps what reached it."""

    def __init__(self) -> None:
        self.reached: list[Scope] = []

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self.reached.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": PAGE[:9], "more_body": True})
        await send({"type": "http.response.body", "body": PAGE[9:]})


class Response:
    def __init__(self, sent: list[Message], page: Page) -> None:
        self.sent = sent
        self.reached = bool(page.reached)
        self.scope = page.reached[0] if page.reached else {}
        self.status = sent[0].get("status")
        self.headers = {name.decode(): value.decode() for name, value in sent[0].get("headers", [])}
        self.body = b"".join(message.get("body", b"") for message in sent)


def ask(  # noqa: PLR0913 - the parts of a request
    headers: Mapping[str, str] | None = None,
    admission: Admission = OPEN,
    *,
    kind: str = "http",
    method: str = "GET",
    path: str = "/",
    query: str = "",
) -> Response:
    given = {"host": HOST, **(headers or {})}
    scope: dict[str, Any] = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items() if value],
    }
    sent: list[Message] = []
    page = Page()

    async def receive() -> Message:
        return {"type": f"{kind}.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(GuardedPage(page, admission)(scope, receive, send))
    return Response(sent, page)


def open_socket(headers: Mapping[str, str], admission: Admission = OPEN) -> Response:
    return ask(headers, admission, kind="websocket", path="/_nicegui_ws/socket.io/")


@pytest.mark.parametrize("host", [HOST, "localhost:8321", "LOCALHOST:8321", "[::1]:8321"])
def test_the_page_opens_under_each_name_of_this_machine(host: str) -> None:
    assert ask({"host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8321", "127.0.0.1", "127.0.0.1:80", "localhost:8321.evil.example"],
)
def test_a_name_that_resolves_to_this_machine_is_refused(host: str) -> None:
    response = ask({"host": host})
    assert (response.status, response.reached) == (403, False)
    assert not open_socket({"host": host, "origin": f"http://{host}", "cookie": COOKIE}).reached


@pytest.mark.parametrize("hosts", [(HOST, "evil.example"), ("evil.example", HOST)])
def test_a_header_that_occurs_twice_is_refused(hosts: tuple[str, str]) -> None:
    sent: list[Message] = []
    headers = [(b"host", host.encode()) for host in hosts]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {}

    asyncio.run(GuardedPage(Page(), OPEN)(scope, receive, send))
    assert sent[0]["status"] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://[::1"},  # no URL
        {"origin": "http://127.0.0.1:9999"},  # another program of this machine
        {"origin": "http://localhost:8321"},  # not the name by which this page was addressed
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    ],
)
def test_a_request_of_another_page_is_refused(headers: dict[str, str]) -> None:
    assert ask(headers).status == 403
    assert not open_socket({"origin": f"http://{HOST}", "cookie": COOKIE, **headers}).reached


def test_a_link_on_another_site_may_lead_to_the_page_only() -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert ask(link).status == 200
    assert ask(link, path="/_nicegui/3/x.js").status == 403


def test_a_websocket_needs_the_origin_and_the_cookie_of_the_page() -> None:
    good = {"origin": f"http://{HOST}", "cookie": f"other=1; {COOKIE}"}
    assert open_socket(good).sent == [{"type": "websocket.accept"}]
    for bad in ({**good, "origin": ""}, {**good, "cookie": ""}, {**good, "cookie": f"{OPEN.cookie}=guess"}):
        response = open_socket(bad)
        assert response.sent == [{"type": "websocket.close", "code": 1008}]
        assert not response.reached


def test_a_websocket_elsewhere_is_refused() -> None:
    good = {"origin": f"http://{HOST}", "cookie": COOKIE}
    assert not ask(good, kind="websocket", path="/other").reached


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_sent_by_a_form(method: str) -> None:
    response = ask({"origin": f"http://{HOST}", "cookie": COOKIE}, method=method)
    assert (response.status, response.reached) == (405, False)


@pytest.mark.parametrize("path", ["/_nicegui_ws/", "/_nicegui_ws/../x", "/_nicegui_ws/socket.io/more", "/"])
def test_there_is_one_websocket(path: str) -> None:
    headers = {"origin": f"http://{HOST}", "cookie": COOKIE}
    assert not ask(headers, kind="websocket", path=path).reached


def test_long_polling_which_sends_no_origin_is_refused() -> None:
    assert ask({"cookie": COOKIE}, path="/_nicegui_ws/socket.io/").status == 404


def test_the_page_sets_a_cookie_that_no_script_and_no_other_site_gets() -> None:
    cookie = ask().headers["set-cookie"]
    assert cookie == f"{COOKIE}; Path=/; HttpOnly; SameSite=Strict"
    assert "set-cookie" not in ask(path="/_nicegui/3.0/x.js").headers


def test_the_token_is_needed_once_and_then_the_cookie() -> None:
    assert ask(admission=LOCKED).status == 401
    assert ask({"cookie": f"{OPEN.cookie}=t0ken"}, LOCKED).status == 401
    assert ask(admission=LOCKED, query="token=wrong").status == 401
    assert ask(admission=LOCKED, query="token=").status == 401
    entered = ask(admission=LOCKED, query="token=t0ken")
    assert entered.headers["set-cookie"].startswith(COOKIE)
    assert b"t0ken" not in entered.body
    assert not entered.reached
    assert ask({"cookie": COOKIE}, LOCKED).reached


def test_without_the_token_no_file_and_no_websocket_is_served() -> None:
    assert ask(admission=LOCKED, path="/_nicegui/3/x.js").status == 401
    assert not open_socket({"origin": f"http://{HOST}"}, LOCKED).reached


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr("fedgrass.console.dashboard.page_security.hmac.compare_digest", compare)
    ask(admission=LOCKED, query="token=wrong")
    ask({"cookie": f"{OPEN.cookie}=guess"}, LOCKED)
    assert set(compared) == {(b"wrong", b"t0ken"), (b"", b"t0ken"), (b"guess", b"s3ss1on")}


def test_each_script_of_the_page_has_the_nonce_of_its_own_response() -> None:
    first, second = ask(), ask()
    policy = first.headers["content-security-policy"]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert first.body.count(f'<script nonce="{nonce}"'.encode()) == first.body.count(b"<script") == 2
    assert first.headers["content-length"] == str(len(first.body))
    assert policy != second.headers["content-security-policy"]
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]


@pytest.mark.parametrize("response", [ask(), ask({"host": "evil"}), ask(admission=LOCKED)])
def test_every_response_forbids_frames_and_guessed_types(response: Response) -> None:
    assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


def test_headers_of_proxies_do_not_reach_the_page() -> None:
    scope = ask({"x-forwarded-prefix": "/evil", "forwarded": "host=evil"}).scope
    assert {name for name, _ in scope["headers"]} == {b"host"}


def test_further_names_are_allowed_with_and_without_a_port() -> None:
    names = local_names("127.0.0.1", 8321, ["localhost:9000", "Bastion"])
    assert {"localhost:9000", "bastion", "bastion:8321"} <= names
    assert "localhost" not in names
    assert local_names("10.0.0.7", 80) == {"10.0.0.7:80"}
    assert local_names("fd00::7", 80) == {"[fd00::7]:80"}


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)],  # noqa: S104
)
def test_loopback_addresses_are_known(address: str, loopback: bool) -> None:  # noqa: FBT001
    assert is_loopback(address) is loopback
