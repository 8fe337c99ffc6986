"""Adds what the worker process prints to the log lines, and passes it on to this process's log unchanged."""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import IO

_LOG = 2  # the file descriptor of standard error, which the nucleus reads
_READ = 64 * 1024  # bytes at a time
_LONGEST = 8 * 1024  # bytes of a line without an end
AddLine = Callable[[str], None]


def forward_output(output: IO[bytes], add: AddLine) -> None:
    """Forward what a process prints, on a thread that ends with the process and its children.

    Args:
        output: the pipe to read; it is closed at its end.
        add: called with each line, or each part of a very long one.
    """
    threading.Thread(target=_forward, args=(output, add), daemon=True, name="worker-log").start()


def _forward(output: IO[bytes], add: AddLine) -> None:
    rest = b""
    with output:
        while data := os.read(output.fileno(), _READ):
            _pass_on(data)
            *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                add(line.decode(errors="backslashreplace"))
            if len(rest) > _LONGEST:
                add(rest.decode(errors="backslashreplace"))
                rest = b""
    if rest:
        add(rest.decode(errors="backslashreplace"))


def _pass_on(data: bytes) -> None:
    # A log that nobody reads any more must not stop the worker.
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(_LOG, data) :]
