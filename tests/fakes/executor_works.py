"""Works for the executors of a grid. The module imports little: each worker process of a test imports it."""

import os
import signal
import time
from pathlib import Path


def perform(work: bytes) -> bytes:
    """A work that a test describes: ``echo``, ``fail``, ``die``, ``wait FILE``, ``touch FILE wait FILE``."""
    words = work.decode().split()
    if words[0] == "fail":
        message = "the work has a mistake"
        raise ValueError(message)
    if words[0] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if words[0] == "touch":
        Path(words[1]).touch()
    if "wait" in words:
        awaited, until = Path(words[-1]), time.monotonic() + 60
        while not awaited.exists() and time.monotonic() < until:
            time.sleep(0.005)
    return b"done: " + work
