"""The embedded cloud counts requests by operation, and serves the counts."""

import asyncio
import json
from typing import Any

import pytest

from fedgrass.local.aws.cloud_process import REQUESTS_PATH
from fedgrass.local.aws.request_counter import RequestCounter


def _get(counter: RequestCounter, path: str = "/", target: str = "", method: str = "POST") -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    headers = [(b"host", b"127.0.0.1"), *([(b"x-amz-target", target.encode())] if target else [])]
    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    asyncio.run(counter(scope, receive, send))
    return sent


def test_requests_are_counted_by_operation_and_all_are_forwarded() -> None:
    forwarded: list[str] = []

    async def application(scope: Any, _receive: Any, _send: Any) -> None:
        forwarded.append(scope["path"])

    counter = RequestCounter(application)
    for target in ("DynamoDB_20120810.GetItem", "DynamoDB_20120810.GetItem", "AmazonSQS.SendMessage", ""):
        _get(counter, target=target)
    _get(counter, REQUESTS_PATH)  # only GET is answered here
    assert len(forwarded) == 5
    start, body = _get(counter, REQUESTS_PATH, method="GET")
    assert start["status"] == 200
    assert json.loads(body["body"]) == {"DynamoDB_20120810.GetItem": 2, "AmazonSQS.SendMessage": 1}
    assert len(forwarded) == 5


def test_invented_operations_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgrass.local.aws.request_counter._MOST_NAMES", 3)

    async def application(_scope: Any, _receive: Any, _send: Any) -> None:
        return

    counter = RequestCounter(application)
    for number in range(5):
        _get(counter, target=f"x{number}")
    assert len(json.loads(_get(counter, REQUESTS_PATH, method="GET")[1]["body"])) == 3
