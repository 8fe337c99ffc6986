"""A token exchange service and an S3 of plain HTTP on 127.0.0.1, whose answers a test chooses."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CREDENTIALS_PATH = "/2016-11-01/credentialprovider/"
Answer = tuple[int, bytes]
Respond = Callable[[str, str, int], Answer]  # of method, access key and number of the request


def error(status: int, code: str) -> Answer:
    """Return an error of S3."""
    return (
        status,
        f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>stubbed</Message></Error>".encode(),
    )


class DeviceCloud:
    """The HTTP services that a component of a core device uses.

    Args:
        respond: S3's answer to each request.
        keys: access keys that the token exchange service returns in this order; the last one repeatedly.
        port: 0 takes a free one.
    """

    def __init__(self, respond: Respond, keys: tuple[str, ...] = ("ASIAFRESH",), port: int = 0) -> None:
        self.keys = list(keys)
        self.credentials: Answer | None = None  # instead of credentials
        self.expiration = "2099-01-01T00:00:00Z"
        self.asked: list[str] = []  # the paths of requests for credentials
        self.used: list[str] = []  # the access keys of requests to S3
        self.stored: dict[str, bytes] = {}
        self.respond = respond
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """Return the variables that the nucleus sets for a component's process."""
        return {
            "SVCUID": "0123456789abcdef",
            "AWS_REGION": "eu-west-1",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.url}{CREDENTIALS_PATH}",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "0123456789abcdef",
            "AWS_ENDPOINT_URL_S3": self.url,
        }

    def _exchange(self, headers: Mapping[str, str]) -> Answer:
        if self.credentials:
            return self.credentials
        if headers.get("Authorization") != "0123456789abcdef":
            return 404, b"No such svcuid present."
        key = self.keys.pop(0) if len(self.keys) > 1 else self.keys[0]
        found = {"AccessKeyId": key, "SecretAccessKey": "s", "Token": "t", "Expiration": self.expiration}
        return 200, json.dumps(found).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if CREDENTIALS_PATH in self.path:
                    cloud.asked.append(self.path)
                    self._say(cloud._exchange(dict(self.headers)))
                    return
                key = self.headers.get("Authorization", "").split("Credential=")[-1].split("/")[0]
                number = len(cloud.used)
                cloud.used.append(key)
                if self.command == "PUT":
                    cloud.stored[self.path] = body
                status, answer = cloud.respond(self.command, key, number)
                good = status == HTTPStatus.OK
                self._say((status, b"" if self.command == "PUT" and good else answer))

            do_GET = do_PUT = do_POST = _serve  # noqa: N815  # names of http.server

            def _say(self, answer: Answer) -> None:
                status, body = answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"etag"')
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Do not log."""

        return Handler


@contextmanager
def device_cloud(
    respond: Respond, keys: tuple[str, ...] = ("ASIAFRESH",), port: int = 0
) -> Iterator[DeviceCloud]:
    """Serve until the block ends."""
    cloud = DeviceCloud(respond, keys, port)
    try:
        yield cloud
    finally:
        cloud.close()
