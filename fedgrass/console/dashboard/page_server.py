"""The server of the dashboard: ``fedgrass dashboard``, from its options to its end."""

import logging
import secrets
import socket
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI
from nicegui import app as page_app
from nicegui import ui

from fedgrass.console.dashboard.page_security import (
    TOKEN,
    Admission,
    GuardedPage,
    is_loopback,
    local_names,
)
from fedgrass.console.dashboard.pages.dashboard_page import TITLE, add_page
from fedgrass.console.dashboard.pages.page_sources import ShownStack
from fedgrass.console.terminal import printable, say
from fedgrass.federation.errors import SettingsError

_ANYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - refused below unless names are given
_BACKLOG = 128
_END_SECONDS = 2  # to close open connections
_LOGGERS = ("nicegui", "uvicorn.error")  # they write to the terminal, also the paths of requests


def serve(
    stacks: Sequence[ShownStack],
    *,
    host: str,
    port: int,
    allow_host: Sequence[str] = (),
    read_only: bool = False,
) -> None:
    """Serve the page until the process is interrupted.

    Args:
        stacks: that it shows; they are started here, and closed at the end.
        host: address to listen on; any but a loopback one needs a token, which is printed.
        port: to listen on; 0: a free one.
        allow_host: further names by which browsers may address the page.
        read_only: whether no action is offered.

    Raises:
        SettingsError: the address cannot be used.
    """
    check_names(host, allow_host)
    listening = listen(host, port)
    bound = int(listening.getsockname()[1])
    admission = Admission(
        hosts=local_names(host, bound, allow_host),
        cookie=f"fedgrass_dashboard_{bound}",
        token="" if is_loopback(host) else secrets.token_urlsafe(32),
    )
    server = page_server(stacks, admission, read_only=read_only)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(make_printable)
    for line in greeting(host, bound, admission.token, allow_host, read_only=read_only):
        say(line)
    for shown in stacks:
        shown.source.start()
    try:
        server.run(sockets=[listening])
    finally:
        for shown in stacks:
            shown.source.close()
        listening.close()


def make_printable(record: logging.LogRecord) -> bool:
    """Escape what would control the terminal in a log line: a path may contain anything."""
    record.msg, record.args = printable(record.getMessage()), None
    return True


def check_names(host: str, allow_host: Sequence[str]) -> None:
    """Refuse to listen on all addresses without a name that browsers use. Raises SettingsError."""
    if host in _ANYWHERE and not allow_host:
        message = (
            f"--host {host} stands for all addresses: name by --allow-host NAME what browsers connect to"
        )
        raise SettingsError(message)


def greeting(
    host: str, port: int, token: str, allow_host: Sequence[str] = (), *, read_only: bool = False
) -> list[str]:
    """Return the lines that the command prints: the page's address, and what should be known of it."""
    name = allow_host[0] if host in _ANYWHERE else host
    bracketed = f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name
    place = bracketed if ":" in bracketed.rpartition("]")[2] else f"{bracketed}:{port}"
    title = "dashboard (read-only)" if read_only else "dashboard"
    lines = [f"{title}: http://{place}/" + (f"?{TOKEN}={token}" if token else "")]
    if token:
        lines.append(
            "The token opens the page to anyone who has it, and HTTP does not encrypt it: prefer a tunnel"
        )
    lines.append("Ctrl-C ends it")
    return lines


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises SettingsError if the address is taken or not of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        made.close()
        reason = getattr(error, "strerror", None) or error
        message = (
            f"the dashboard cannot listen on {host} port {port}: {reason}; choose others by --host and --port"
        )
        raise SettingsError(message) from error
    return made


def page_server(stacks: Sequence[ShownStack], admission: Admission, *, read_only: bool) -> uvicorn.Server:
    """Return the server of the page. NiceGUI has one application per process: this is called once."""
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_page(stacks, read_only=read_only)
    page_app.config.socket_io_js_transports = ["websocket"]  # without long polling, which sends no Origin
    ui.run_with(
        outer,
        title=TITLE,
        dark=None,
        language="en-US",
        binding_refresh_interval=None,
        reconnect_timeout=10.0,
        gzip_middleware_factory=None,
        tailwind=False,
        show_welcome_message=False,
    )
    configuration = uvicorn.Config(
        GuardedPage(outer, admission),
        access_log=False,  # the token is in a URL
        log_level="warning",
        lifespan="on",
        ws="websockets-sansio",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=_END_SECONDS,
    )
    return uvicorn.Server(configuration)
