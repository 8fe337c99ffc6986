"""A part of a file that is read no faster than the upload may use the link."""

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from components.runtime.component_errors import UploadFailed

MOST_AT_ONCE = 16 * 1024  # bytes, so that a slow link is never idle for long
_LONGEST_NAP = 0.2  # seconds within which a cancelled upload ends


class Pacer:
    """Returns the waits that keep the average at ``bytes_per_second``; 0: no limit."""

    def __init__(self, bytes_per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._free_at = float("-inf")

    @property
    def limits(self) -> bool:
        """Whether there is a limit."""
        return self._rate > 0

    def seconds_for(self, count: int) -> float:
        """Reserve the time for ``count`` bytes; return the seconds to wait before sending them."""
        if not self.limits:
            return 0.0
        now = self._clock()
        start = max(now, self._free_at)
        self._free_at = start + count / self._rate
        return start - now


class RateLimitedFile:
    """``length`` bytes of a file from ``start`` on, as an open file that an HTTP client can send.

    Raises, when read after ``cancelled`` was set:
        UploadFailed: the upload was cancelled.
    """

    def __init__(self, path: Path, start: int, length: int, pacer: Pacer, cancelled: threading.Event) -> None:
        self._file: BinaryIO = path.open("rb")
        self._name = path.name
        self._start = start
        self._length = length
        self._position = 0
        self._pacer = pacer
        self._cancelled = cancelled
        self._sending = False

    def __enter__(self) -> "RateLimitedFile":  # noqa: PYI034 - Python 3.10 has no typing.Self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def begin_signing(self) -> None:
        """Read without a limit: nothing is sent. Raises UploadFailed if cancelled."""
        self._check()
        self._sending = False

    def begin_sending(self) -> None:
        """Read no faster than the limit."""
        self._sending = True

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes, at most ``count``."""
        self._check()
        left = self._length - self._position
        wanted = left if count < 0 else min(count, left)
        if self._sending and self._pacer.limits:
            wanted = min(wanted, MOST_AT_ONCE)
            self._wait(self._pacer.seconds_for(wanted))
        self._file.seek(self._start + self._position)
        data = self._file.read(wanted)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the part."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        """Return the position within the part."""
        return self._position

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._cancelled.wait(min(left, _LONGEST_NAP))
            self._check()

    def _check(self) -> None:
        if self._cancelled.is_set():
            message = f"the upload of {self._name} was cancelled"
            raise UploadFailed(message)
