"""A Stream Manager that runs in a thread, so that the SDK, whose calls block, can be its client."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from greengrass_emulator.faults.fault_state import Faults
from greengrass_emulator.stream_manager.stream_server import StreamManager

_SECONDS = 30


def no_s3() -> Any:
    """Fail: the test exports nothing."""
    message = "this test exports nothing"
    raise AssertionError(message)


@contextmanager
def stream_manager(
    root: Path,
    s3_client: Callable[[], Any] = no_s3,
    is_component_token: Callable[[str], bool] | None = None,
    first_retry_seconds: float = 0.02,
    faults: Faults | None = None,
) -> Iterator[int]:
    """Run a Stream Manager and yield its port; afterwards check that no thread of it is left."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(_SECONDS)

    manager = StreamManager(root, s3_client, is_component_token, first_retry_seconds, faults)
    before = set(threading.enumerate())
    try:
        yield run(manager.start())
    finally:
        run(manager.stop())
        run(manager.stop())
        left = [one.name for one in set(threading.enumerate()) - before if one.name.startswith("stream-")]
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_SECONDS)
        loop.close()
    assert left == []
