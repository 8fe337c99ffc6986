"""Predictions over HTTP, for applications on the device itself: 127.0.0.1 only.

POST /predict/<task>   {"inputs": [...]}   ->   {"task", "run", "round", "outputs"} or {"error"}
GET  /health                               ->   200 once every task has a model, else 503
"""

import logging
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from components.predictor.serving import LARGEST_REQUEST, Serving, encode_answer, parse_request
from components.runtime.component_errors import ConfigurationError, RequestRefused

HOST = "127.0.0.1"
OWN_NAMES = {"127.0.0.1", "localhost"}
IDLE_SECONDS = 15
PREDICT = "/predict/"
log = logging.getLogger(__name__)
Health = Callable[[], Mapping[str, Any]]


class Server(ThreadingHTTPServer):
    """A thread per connection; none of them keeps the process alive."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, serving: Serving, health: Health) -> None:
        """Listen; raises ConfigurationError if the port cannot be had."""
        self.serving = serving
        self.health = health
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            message = (
                f"the configuration's http_port {port} on {HOST} cannot be used: {error.strerror}; choose"
                " another one, or 0 for any free one"
            )
            raise ConfigurationError(message) from error

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - as the base class has it
        """Take note of a client that left in the middle."""
        log.info("a client of the HTTP server has left: %r", sys.exc_info()[1])


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "fedgrass"
    sys_version = ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answer the health page."""
        if self._is_foreign():
            return
        if self.path.rstrip("/") != "/health":
            self._refuse(RequestRefused("GET /health, or POST /predict/<task>", HTTPStatus.NOT_FOUND))
            return
        health = self.server.health()
        self._send(HTTPStatus.OK if health["status"] == "ok" else HTTPStatus.SERVICE_UNAVAILABLE, health)

    def do_POST(self) -> None:
        """Answer a request for predictions."""
        if self._is_foreign():
            return
        try:
            request = parse_request(self._body())
        except RequestRefused as error:
            self.server.serving.count_failure()
            self._refuse(error)
            return
        try:
            answer = self.server.serving.answer(self.path.removeprefix(PREDICT), request)
        except RequestRefused as error:
            self._refuse(error)
            return
        self._send(HTTPStatus.OK, answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
        """Log nothing of a request: there may be thousands a second."""

    def _is_foreign(self) -> bool:
        """Refuse what a page in a browser was tricked into asking: its Host is not this machine's name."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host in OWN_NAMES and "Origin" not in self.headers:
            return False
        self._refuse(RequestRefused("only applications of this device are answered", HTTPStatus.FORBIDDEN))
        return True

    def _body(self) -> bytes:
        if not self.path.startswith(PREDICT):
            message = "predictions are at POST /predict/<task>"
            raise RequestRefused(message, HTTPStatus.NOT_FOUND)
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            message = "a request needs its Content-Length"
            raise RequestRefused(message, HTTPStatus.LENGTH_REQUIRED)
        if int(length) > LARGEST_REQUEST:
            message = f"the request has {int(length)} bytes; {LARGEST_REQUEST} is the most"
            raise RequestRefused(message, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return self.rfile.read(int(length))

    def _refuse(self, error: RequestRefused) -> None:
        # What is left of its body must not be taken for the next request.
        self.close_connection = True
        self._send(error.status, {"error": str(error)})

    def _send(self, status: HTTPStatus, answer: Mapping[str, Any]) -> None:
        content = encode_answer(answer)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
