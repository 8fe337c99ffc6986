"""A proxy in front of the embedded cloud that makes requests to AWS fail.

Devices, initiator, averager and ServerApps each use a separate port, which identifies the client. Requests
without a fault pass unchanged: same headers, same signature, same response.
"""

import http.client
import json
import re
import socket
import sys
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from fedgrass.local.aws.cloud_process import LOOPBACK
from tests.chaos.bad_answers import Answer, draw_fault, failure
from tests.chaos.faults import Faults
from tests.chaos.kills import Kills
from tests.chaos.pace import Pace
from tests.chaos.steps import Request, step_of

CLIENTS = ("devices", "initiator", "averager", "server_app")
ANSWER_SECONDS = 60.0
_GOT = {http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT}
_PER_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Gateway:
    """The proxy with its three ports, and the models whose writes it has seen."""

    def __init__(self, upstream_port: int, faults: Faults, kills: Kills, name: str, pace: Pace) -> None:
        self._upstream_port = upstream_port
        self.pace = pace
        self.faults = faults
        self.kills = kills
        self.dice = {client: faults.dice(f"requests of {client} in {name}") for client in CLIENTS}
        self.lock = threading.Lock()
        self.models_written: defaultdict[str, set[str]] = defaultdict(set)  # by path: tags of contents
        # By step: the attempts at rounds that were made from partial sums or from shards.
        self.parts_read: dict[str, set[str]] = {"group_sum_read": set(), "shard_read": set()}
        # The model that each announcement named, by device, run, round and attempt.
        self.announced: dict[tuple[str, str, int, int], str] = {}
        self.errors: list[str] = []  # of the proxy itself, which invalidate a campaign
        self._servers: dict[str, _Server] = {}
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        """Listen."""
        for client in CLIENTS:
            server = self._closing.enter_context(_Server(self, client))
            self._servers[client] = server
            threading.Thread(target=server.serve_forever, args=(0.1,), name=f"gateway-{client}").start()
            self._closing.callback(server.shutdown)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self._closing.close()

    def url(self, client: str) -> str:
        """Return the endpoint of one of ``CLIENTS``."""
        return f"http://{LOOPBACK}:{self._servers[client].server_address[1]}"

    def connect(self) -> http.client.HTTPConnection:
        """Return a new connection to the cloud itself."""
        return http.client.HTTPConnection(LOOPBACK, self._upstream_port, timeout=ANSWER_SECONDS)

    def saw(self, request: Request, answer: Answer) -> None:
        """Record models that were written, and rounds whose parts several averagers made."""
        step = step_of(request)
        with self.lock:
            if step == "announcement":
                self._note_start(request)
            if step == "model_written" and answer.status == http.HTTPStatus.OK:
                self.models_written[request.path].add(_tag(answer))
            if step in self.parts_read and answer.status in _GOT:
                self.parts_read[step].add(request.path.partition("/parts/")[0])

    def _note_start(self, request: Request) -> None:
        """Record from which model a device is told to start; one work always starts from the same model."""
        work = json.loads(request.body)
        device = request.path.split("/")[-2]
        place = (device, work["run"], work["round"], work["attempt"])
        key = re.sub(r"\.[a-z0-9]+(?=\.safetensors$)", "", work["model_key"])  # without the download encoding
        if self.announced.setdefault(place, key) != key:
            self.errors.append(f"{place} was announced from {self.announced[place]}, then from {key}")


def _tag(answer: Answer) -> str:
    """Return the ETag of a written object; for a copy it is in the body of the response."""
    tags = [value for name, value in answer.headers if name.lower() == "etag"]
    tags += re.findall(r"<ETag>(.*?)</ETag>", answer.body.decode(errors="replace"))
    return str(tags[0]).strip().replace("&quot;", "").strip('"') if tags else ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a connection kept open would delay the end

    def __init__(self, gateway: Gateway, client: str) -> None:
        self.gateway = gateway
        self.client = client
        super().__init__((LOOPBACK, 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class
        """Keep errors other than broken connections: clients are killed all the time."""
        error = sys.exception()
        if not isinstance(error, (OSError, http.client.HTTPException)):
            self.gateway.errors.append(repr(error))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65_536
    timeout = 90  # seconds of silence on a kept connection
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._upstream = self.server.gateway.connect()

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def handle_expect_100(self) -> bool:
        """Ask for the body at once: boto3 waits up to a second for this."""
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    def log_message(self, *_: object) -> None:
        """Log nothing: the faults are counted."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # its client was killed
            self.close_connection = True
            return
        request = Request(self.command, self.path, dict(self.headers.items()), body)
        gateway, client = self.server.gateway, self.server.client
        step = step_of(request)
        kill = gateway.kills.for_step(client, step)
        if kill in {"before", "between", "late"}:
            gateway.kills.strike(client, f"{kill} {step}", self.client_address[1])
            self._hang_up()
            if kill == "late":
                time.sleep(gateway.pace.late_seconds)
                gateway.saw(request, self._forward(request))
            return
        fault = "" if kill else self._draw(request)
        if fault == "s3_cut" and request.method == "PUT":
            self._hang_up()
            return
        if fault in {"s3_500", "s3_503", "service_500"}:
            self._answer(failure(fault))
            return
        answer = self._forward(request)
        gateway.saw(request, answer)
        if kill == "after":
            gateway.kills.strike(client, f"after {step}", self.client_address[1])
        if kill or fault == "answer_lost":
            self._hang_up()
        else:
            self._answer(answer, cut=fault == "s3_cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 - the base class's name

    def _draw(self, request: Request) -> str:
        """Return the fault of a request; wait here if it is only delayed."""
        gateway = self.server.gateway
        if not gateway.faults.active:
            return ""
        with gateway.lock:
            dice = gateway.dice[self.server.client]
            fault, seconds = draw_fault(request, self.server.client, dice.random()), dice.uniform(0.3, 2.0)
        if fault:
            gateway.faults.count(fault, f"{self.server.client}: {request.method} {request.service}")
        if fault in {"s3_slow", "very_slow"}:
            time.sleep(seconds if fault == "s3_slow" else gateway.pace.very_slow_seconds)
        return fault

    def _forward(self, request: Request) -> Answer:
        self._upstream.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in {"connection", "expect"}:
                self._upstream.putheader(name, value)
        self._upstream.endheaders(request.body or None)
        response = self._upstream.getresponse()
        headers = [(n, v) for n, v in response.getheaders() if n.lower() not in _PER_CONNECTION]
        if request.method == "HEAD":
            headers.append(("Content-Length", response.getheader("Content-Length", "0")))
        return Answer(response.status, response.read(), headers)

    def _answer(self, answer: Answer, *, cut: bool = False) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
