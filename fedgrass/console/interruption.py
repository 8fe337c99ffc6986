"""How a command ends when it is told to: by Ctrl-C, by SIGTERM, or since its terminal has gone."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN_SECONDS = 0.01
_TAKING_DOWN_SECONDS = 10.0  # before an impatient person is obeyed


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt in the main thread when the process is told to end.

    Whatever error comes of it on the way is told as KeyboardInterrupt too: a library may have turned the
    interruption into one of its own. A second signal is ignored while what the command has made is taken
    down, and the end of the terminal if the parent wants that (nohup).
    """
    told_at = 0.0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal told_at
        if _is_called_by_crt(frame):
            again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        if not told_at or time.monotonic() - told_at > _TAKING_DOWN_SECONDS:
            told_at = time.monotonic()
            raise KeyboardInterrupt

    heard = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    previous = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    except Exception as error:
        if told_at:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def is_interruption(error: BaseException) -> bool:
    """Return whether an error is a signal's KeyboardInterrupt, and not one that other code raised."""
    if not isinstance(error, KeyboardInterrupt):
        return False
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_code.co_filename == __file__


def _is_called_by_crt(frame: FrameType | None) -> bool:
    """Return whether the main thread is inside the AWS Common Runtime, which signs and reads S3's requests.

    What is raised in a function that it calls it prints, and goes on with "unknown error" instead.
    """
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] == "awscrt":
            return True
        frame = frame.f_back
    return False
