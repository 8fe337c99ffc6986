"""Turn Ctrl-C, SIGTERM and the loss of the terminal into one KeyboardInterrupt in the main thread."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_RETRY_SECONDS = 0.01
_CLEAN_UP_SECONDS = 10.0  # during which a second signal is ignored


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread on SIGINT, SIGTERM or SIGHUP.

    A library may convert the interruption into another error, so any exception that leaves the context after
    a signal is raised as KeyboardInterrupt too. A second signal is ignored for ten seconds, while the command
    cleans up. SIGHUP is ignored if the parent ignores it (nohup).
    """
    signalled_at = 0.0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal signalled_at
        if _is_called_by_crt(frame):
            retry = threading.Timer(_RETRY_SECONDS, os.kill, (os.getpid(), number))
            retry.daemon = True
            retry.start()
            return
        if not signalled_at or time.monotonic() - signalled_at > _CLEAN_UP_SECONDS:
            signalled_at = time.monotonic()
            raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    except Exception as error:
        if signalled_at:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def is_interruption(error: BaseException) -> bool:
    """Return whether an error is the KeyboardInterrupt of a signal, not one that other code raised."""
    if not isinstance(error, KeyboardInterrupt):
        return False
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_code.co_filename == __file__


def _is_called_by_crt(frame: FrameType | None) -> bool:
    """Return whether the main thread is inside the AWS Common Runtime, which signs and sends S3 requests.

    It prints an exception that is raised in one of its callbacks and continues with "unknown error", so the
    signal is sent again a little later.
    """
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] == "awscrt":
            return True
        frame = frame.f_back
    return False
