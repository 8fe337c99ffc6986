import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from greengrass_emulator.stream_manager.s3_export_task import TaskStatus
from greengrass_emulator.stream_manager.stream_export import EXPORT_THREADS, StreamExporter
from greengrass_emulator.stream_manager.stream_protocol import (
    ExportDefinition,
    Persistence,
    S3TaskExecutor,
    StatusConfig,
    StrategyOnFull,
    StreamDefinition,
)
from greengrass_emulator.stream_manager.stream_store import StreamStore

_SECONDS = 10


class S3:
    """Accepts uploads as boto3's client does, and records them."""

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        self.uploading = 0
        self.most_uploading = 0
        self._act = act
        self._lock = threading.Lock()

    def upload_fileobj(self, *_: object, **__: object) -> None:
        with self._lock:
            self.uploading += 1
            self.most_uploading = max(self.most_uploading, self.uploading)
        try:
            self._act()
        finally:
            with self._lock:
                self.uploading -= 1

    def close(self) -> None:
        """Do nothing: no connection is open."""


class Clock:
    seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


def exported(name: str, *, disabled: bool = False, **fields: Any) -> StreamDefinition:
    export = S3TaskExecutor(
        identifier="s3", disabled=disabled, status_config=StatusConfig(status_stream_name="status")
    )
    return StreamDefinition(
        name=name,
        strategy_on_full=StrategyOnFull.REJECT_NEW_DATA,
        export_definition=ExportDefinition(s3_task_executor=[export]),
        **fields,
    )


@asynccontextmanager
async def exporting(
    root: Path, s3: S3, clock: Callable[[], float] = time.time, first_retry_seconds: float = 0.01
) -> AsyncIterator[StreamStore]:
    loop = asyncio.get_running_loop()

    def on_change(name: str) -> None:
        loop.call_soon_threadsafe(exporter.wake, name)

    store = StreamStore(root, on_change, clock)
    client: Any = s3
    exporter = StreamExporter(store, lambda: client, first_retry_seconds, clock)
    status = StreamDefinition(
        name="status",
        strategy_on_full=StrategyOnFull.OVERWRITE_OLDEST_DATA,
        persistence=Persistence.MEMORY,
    )
    store.create(status)
    try:
        yield store
    finally:
        await exporter.stop(_SECONDS)
        store.close()


def task(root: Path) -> bytes:
    file = root / "file"
    file.write_bytes(b"weights")
    return json.dumps({"inputUrl": f"file:{file}", "bucket": "models", "key": "k"}).encode()


async def told(store: StreamStore, status: TaskStatus, count: int = 1) -> list[str]:
    """Wait for a number of status messages of a kind; return them."""
    async with asyncio.timeout(_SECONDS):
        while True:
            statuses = [json.loads(one.payload) for one in store.get("status").read(0, 1 << 30, 1 << 30)]
            messages = [one["message"] for one in statuses if one["status"] == status]
            if len(messages) >= count:
                return messages
            await asyncio.sleep(0.002)


def test_a_task_that_outlived_its_time_to_live_is_canceled(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with exporting(tmp_path / "streams", S3(), clock) as store:
            store.create(exported("updates", disabled=True))
            store.append("updates", task(tmp_path))
            clock.seconds += 61
            store.update(exported("updates", time_to_live_millis=60_000))
            (message,) = await told(store, TaskStatus.CANCELED)
            assert "time to live" in message

    asyncio.run(scenario())


def test_no_more_than_five_uploads_run_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        full = threading.Barrier(EXPORT_THREADS)
        s3 = S3(lambda: full.wait(_SECONDS))
        async with exporting(tmp_path / "streams", s3) as store:
            for number in range(2 * EXPORT_THREADS):
                store.create(exported(f"stream-{number}"))
                store.append(f"stream-{number}", task(tmp_path))
            await told(store, TaskStatus.SUCCESS, 2 * EXPORT_THREADS)
            assert s3.most_uploading == EXPORT_THREADS

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("first", "delays"), [(0.001, ["0.001", "0.002", "0.004", "0.008"]), (400.0, ["300"])]
)
def test_the_wait_after_a_failure_doubles_up_to_five_minutes(
    tmp_path: Path, first: float, delays: list[str]
) -> None:
    def fail() -> None:
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")

    async def scenario() -> None:
        async with exporting(tmp_path / "streams", S3(fail), first_retry_seconds=first) as store:
            store.create(exported("updates"))
            store.append("updates", task(tmp_path))
            messages = await told(store, TaskStatus.WARNING, len(delays))
            for message, delay in zip(messages, delays, strict=False):
                assert message.endswith(f"the next one is in {delay} s.")

    asyncio.run(scenario())
