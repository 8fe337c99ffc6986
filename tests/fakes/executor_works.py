"""Works for the executors of a grid. The module imports little: each worker process of a test imports it."""

import os
import signal
import subprocess
import time
from pathlib import Path


def perform(work: bytes) -> bytes:
    """A work that a test describes: ``echo``, ``fail``, ``die``, ``wait FILE``, ``touch FILE wait FILE``,
    ``start FILE die``."""
    words = work.decode().split()
    if words[0] == "fail":
        message = "the work has a mistake"
        raise ValueError(message)
    if words[0] == "start":  # a process, whose id is written to the file
        Path(words[1]).write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    if words[-1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if words[0] == "touch":
        Path(words[1]).touch()
    if "wait" in words:
        awaited, until = Path(words[-1]), time.monotonic() + 60
        while not awaited.exists() and time.monotonic() < until:
            time.sleep(0.005)
    return b"done: " + work
