"""Count the requests to the embedded cloud, by service and operation, for load tests."""

import json
from collections import Counter
from typing import Final

from fedgrass.local.aws.cloud_process import REQUESTS_PATH
from fedgrass.local.aws.request_guard import Application, Message, Receive, Send

_LONGEST_NAME: Final = 100  # characters of an operation
_MOST_NAMES: Final = 1000


class RequestCounter:
    """An ASGI application that counts requests with an ``X-Amz-Target``, and forwards all.

    ``GET /_fedgrass/requests`` returns the counts, such as ``{"DynamoDB_20120810.GetItem": 12}``.
    """

    def __init__(self, application: Application) -> None:
        """Count the requests to ``application``."""
        self._application = application
        self._counts: Counter[str] = Counter()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            if scope["path"] == REQUESTS_PATH and scope["method"] == "GET":
                await self._answer(send)
                return
            self._count(scope)
        await self._application(scope, receive, send)

    def _count(self, scope: Message) -> None:
        for name, value in scope["headers"]:
            if name == b"x-amz-target":
                target = value[:_LONGEST_NAME].decode("latin-1")
                if target in self._counts or len(self._counts) < _MOST_NAMES:
                    self._counts[target] += 1
                return

    async def _answer(self, send: Send) -> None:
        body = json.dumps(self._counts).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
