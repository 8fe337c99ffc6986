"""Answers requests for log lines: uploads them to S3, while the device trains too.

The upload runs in a process and on a thread of its own, with low priority, and never through Stream Manager:
an update that is being uploaded does not wait for it, nor is anything lost if it fails.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.runtime.atomic_file import write_atomically
from components.runtime.component_errors import UploadFailed
from components.runtime.event_loop import Call, EventLoop
from components.trainer.device_log.log_ring import FOLDER, LogRing, clock_of_day
from components.trainer.session.device_context import Background, in_thread
from components.trainer.session.session_ports import Uploader
from fedgrass.federation import object_keys
from fedgrass.federation.messages import LogRequest
from fedgrass.federation.messages.device_log import LogHeader, encode_log

_MOST_PENDING = 4  # requests; the initiator limits them too
_REMEMBERED = 64  # ids of requests
_PAUSES = (0.0, 5.0, 15.0, 45.0)  # seconds before each attempt
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LogAnswerPorts:
    """What the answers need of the device."""

    ring: LogRing
    uploader: Callable[[], Uploader]
    loop: EventLoop
    look_again: Call = lambda: None  # finds the token exchange service after a failure
    background: Background = in_thread
    now: Callable[[], int] = clock_of_day  # milliseconds since the epoch


class LogAnswers:
    """Uploads the log lines of this device, one request after the other. Used in the event loop.

    Args:
        thing: name of this device.
        component_version: for the header of the file.
        work_folder: of the component; holds the file while it is uploaded.
        ports: what it needs of the device.
    """

    def __init__(self, thing: str, component_version: str, work_folder: Path, ports: LogAnswerPorts) -> None:
        self._thing = thing
        self._component_version = component_version
        self._folder = work_folder / FOLDER
        self._ports = ports
        self._pending: deque[LogRequest] = deque()  # the first one is being answered
        self._known: deque[str] = deque(maxlen=_REMEMBERED)
        self._closed = threading.Event()

    def answer(self, request: LogRequest) -> None:
        """Upload the lines for a request, unless it is late, a copy, or one of too many."""
        if request.id in self._known:
            log.info("dropped a copy of the request %s for log lines", request.id)
        elif self._ports.now() > request.expires_at:
            log.info("dropped the request %s for log lines: it has expired", request.id)
        elif len(self._pending) >= _MOST_PENDING:
            log.warning("dropped the request %s for log lines: %d are waiting", request.id, _MOST_PENDING)
        else:
            self._known.append(request.id)
            self._pending.append(request)
            if len(self._pending) == 1:
                self._begin()

    def close(self) -> None:
        """Give up an upload in progress."""
        self._closed.set()

    def _begin(self) -> None:
        request = self._pending[0]
        self._ports.background(lambda: self._perform(request))

    def _ended(self) -> None:
        self._pending.popleft()
        if self._pending:
            self._begin()

    def _perform(self, request: LogRequest) -> None:
        """Upload the lines; runs in the background."""
        path = self._folder / f"{request.id}.txt"
        try:
            self._write(path, request)
            self._upload(path, request)
        except OSError as error:
            log.warning("the log lines cannot be written to %s: %s", path, error)
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            self._ports.loop.post(self._ended)

    def _write(self, path: Path, request: LogRequest) -> None:
        lines = self._ports.ring.lines()
        header = LogHeader(
            thing=self._thing,
            id=request.id,
            component_version=self._component_version,
            written_at=self._ports.now(),
            lines=len(lines),
        )
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, encode_log(header, lines), mode=0o600)

    def _upload(self, path: Path, request: LogRequest) -> None:
        key = object_keys.device_log(self._thing, request.id)
        for pause in _PAUSES:
            if self._closed.wait(pause) or self._ports.now() > request.expires_at:
                return
            try:
                self._ports.uploader().upload(path, request.bucket, key, self._closed)
            except UploadFailed as error:
                log.warning("the log lines cannot be uploaded: %s", error)
                if not error.transient:
                    return
                self._ports.loop.post(self._ports.look_again)
            else:
                log.info("uploaded the log lines to s3://%s/%s", request.bucket, key)
                return
