"""Keeps the last log lines of this device, in memory and in a file of the work folder.

The file survives a restart of the component. Lines are appended to it; once it has twice the size of what is
kept, it is replaced by that, as at each start. Only a replacement is flushed to the disk, never a line by
itself: flash memory wears out, and a power cut may lose the last lines.
"""

import contextlib
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from components.runtime.atomic_file import write_atomically
from components.trainer.device_log.secret_filter import hide_secrets, secrets_of
from fedgrass.federation.messages.device_log import (
    LARGEST_LINES,
    LONGEST_LOG_LINE,
    MOST_LINES,
    TRAINER,
    format_line,
)

FOLDER, FILE = "log", "lines.txt"  # in the component's work folder
_LARGEST = 2 * LARGEST_LINES  # bytes of the file
_OWNER_ALONE = 0o600
_SECRETS_AFTER = 1_000  # milliseconds after which the environment is read again
# A progress bar redraws its line by a carriage return.
_BREAKS = re.compile(r"[\r\n]+")
_CUT = "..."


def clock_of_day() -> int:
    """Return milliseconds since the epoch, by the device's clock."""
    return time.time_ns() // 1_000_000


class LogRing:
    """The last lines: at most 1,000, and at most 480 KB. Used from any thread.

    Args:
        now: returns milliseconds since the epoch.
    """

    def __init__(self, now: Callable[[], int] = clock_of_day) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._written = 0  # bytes of the file
        self._secrets: tuple[str, ...] = ()  # of this process's environment
        self._secrets_at = 0

    def add(self, process: str, text: str) -> None:
        """Add the lines of a text, without credentials.

        Args:
            process: which process logged it, ``trainer`` or ``worker``.
            text: one or more lines.
        """
        at = self._now()
        if at - self._secrets_at >= _SECRETS_AFTER:
            self._secrets, self._secrets_at = secrets_of(os.environ), at
        for part in _BREAKS.split(text)[-MOST_LINES:]:
            if part := part.strip():
                # The limit first: the filter takes time in proportion to the length.
                line = format_line(at, process, hide_secrets(part[: 2 * LONGEST_LOG_LINE], self._secrets))
                with self._lock:
                    self._append(_shortened(line.encode(errors="backslashreplace")))

    def lines(self) -> list[str]:
        """Return the lines, oldest first."""
        with self._lock:
            return [line.decode(errors="backslashreplace") for line in self._lines]

    def keep_in(self, work_folder: Path) -> None:
        """Keep the lines in a file of the work folder from now on, after those of earlier processes.

        If the file cannot be used, the lines are kept in memory alone.
        """
        path = work_folder / FOLDER / FILE
        with self._lock:
            own = list(self._lines)
            former = _former_lines(path)
            self._lines.clear()
            self._bytes = 0
            for line in (*former, *own):
                self._hold(line)
            self._path = path
            self._replace_file()

    def close(self) -> None:
        """Close the file. Later lines are kept in memory alone."""
        with self._lock:
            self._close_file()
            self._path = None

    def _append(self, line: bytes) -> None:
        self._hold(line)
        if self._path is None:
            return
        if self._file is None or self._written >= _LARGEST:
            self._replace_file()
            return
        try:
            self._file.write(line + b"\n")
            self._written += len(line) + 1
        except OSError:  # a full disk: not logged, which would come back here; tried again with the next line
            self._close_file()

    def _hold(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line) + 1
        while len(self._lines) > MOST_LINES or self._bytes > LARGEST_LINES:
            self._bytes -= len(self._lines.popleft()) + 1

    def _replace_file(self) -> None:
        """Write all lines to a new file, and open it for the next ones."""
        self._close_file()
        if self._path is None:
            return
        content = b"".join(line + b"\n" for line in self._lines)
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(exist_ok=True)
            write_atomically(self._path, content, mode=_OWNER_ALONE)
            self._file = open(  # noqa: SIM115 - open until the next replacement
                self._path, "ab", buffering=0, opener=partial(os.open, mode=_OWNER_ALONE)
            )
            self._written = len(content)

    def _close_file(self) -> None:
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None


class RingHandler(logging.Handler):
    """Adds what this process logs to a ring."""

    def __init__(self, ring: LogRing) -> None:
        super().__init__(logging.INFO)
        self._ring = ring
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Add a record, with its traceback; errors are handled as in ``logging.StreamHandler``."""
        try:
            self._ring.add(TRAINER, self.format(record))
        except Exception:  # noqa: BLE001 - logging must never raise
            self.handleError(record)


@contextlib.contextmanager
def recorded_log() -> Iterator[LogRing]:
    """Add what this process logs to a ring."""
    ring = LogRing()
    handler = RingHandler(ring)
    logging.getLogger().addHandler(handler)
    try:
        yield ring
    finally:
        logging.getLogger().removeHandler(handler)
        ring.close()


def _shortened(line: bytes) -> bytes:
    if len(line) <= LONGEST_LOG_LINE:
        return line
    cut = line[: LONGEST_LOG_LINE - len(_CUT)].decode(errors="ignore")
    return (cut + _CUT).encode()


def _former_lines(path: Path) -> list[bytes]:
    """Return the lines of an earlier process; none if the file cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LARGEST))
            lines = file.read(_LARGEST).split(b"\n")
    except OSError:
        return []
    whole = lines[1:] if size > _LARGEST else lines
    return [_shortened(line) for line in whole if line]
