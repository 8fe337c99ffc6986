"""Predictions over HTTP, for applications on the device: the server listens on 127.0.0.1 only.

POST /predict/<task>   {"inputs": [...]}   ->   {"task", "run", "round", "outputs"} or {"error"}
GET  /health                               ->   200 once every task has a model, else 503
"""

import logging
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from components.predictor.serving import Serving, check_size, encode_answer, parse_request
from components.runtime.component_errors import ConfigurationError, RequestRefused

HOST = "127.0.0.1"
_OWN_NAMES = {"127.0.0.1", "localhost"}
_IDLE_SECONDS = 15
_PREDICT = "/predict/"
log = logging.getLogger(__name__)
Health = Callable[[], Mapping[str, Any]]


class Server(ThreadingHTTPServer):
    """The HTTP server, with a daemon thread per connection.

    Args:
        port: to listen on; 0: any free one.
        serving: answers requests.
        health: returns the content of the health page.

    Raises:
        ConfigurationError: the port cannot be used.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, serving: Serving, health: Health) -> None:

        self.serving = serving
        self.health = health
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            message = (
                f"the configuration's http_port {port} on {HOST} cannot be used: {error.strerror}; choose"
                " another port, or 0 for any free one"
            )
            raise ConfigurationError(message) from error

    @property
    def port(self) -> int:
        """The port on which the server listens."""
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base class's signature
        """Log that a client closed its connection during a request."""
        log.info("a client has closed its HTTP connection: %r", sys.exc_info()[1])


class Handler(BaseHTTPRequestHandler):
    """Handles the requests of one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "fedgrass"
    sys_version = ""
    timeout = _IDLE_SECONDS

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
            answer = self.server.serving.answer(self.path.removeprefix(_PREDICT), request)
        except RequestRefused as error:
            self._refuse(error)
            return
        self._send(HTTPStatus.OK, answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
        """Log nothing: there may be thousands of requests per second."""

    def _is_foreign(self) -> bool:
        """Refuse requests from a web page in a browser, including DNS rebinding; return whether it is one."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host in _OWN_NAMES and "Origin" not in self.headers:
            return False
        self._refuse(RequestRefused("only applications of this device are answered", HTTPStatus.FORBIDDEN))
        return True

    def _body(self) -> bytes:
        if not self.path.startswith(_PREDICT):
            message = "predictions are at POST /predict/<task>"
            raise RequestRefused(message, HTTPStatus.NOT_FOUND)
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            message = "a request needs its Content-Length"
            raise RequestRefused(message, HTTPStatus.LENGTH_REQUIRED)
        check_size(int(length))
        return self.rfile.read(int(length))

    def _refuse(self, error: RequestRefused) -> None:
        # The rest of the body must not be mistaken for the next request.
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
