"""Entry point of the worker process: ``python3 -m components.trainer.worker``.

Reads requests from stdin and writes answers to stdout, one JSON object per line. It exits when its input is
closed, because the trainer either closed it or died.
"""

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

import msgspec

from components.runtime.token_exchange_address import ADDRESS
from components.trainer.worker.model_download import ModelDownload
from components.trainer.worker.work_failure import encodable, failure_of
from components.trainer.worker.work_runner import WorkRunner
from components.trainer.worker.worker_protocol import (
    Answer,
    Failure,
    Progress,
    Request,
    Result,
    StopEarly,
    TokenExchange,
    Waiting,
    WorkOrder,
    id_of,
)

_GRACE_SECONDS = 0.8  # for a training to stop by itself; the trainer kills the worker shortly afterwards
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REPORT_STEP = 0.01  # smallest change of the completed fraction that is reported
# Created before any thread starts: see fedgrass/federation/messages/message_codec.py.
_REQUEST: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
log = logging.getLogger(__name__)


class Channel:
    """Writes the answers about one assignment to the trainer."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._reported = 0.0

    def answer(self, answer: Answer) -> None:
        """Write one answer. A trainer that has died is detected by the end of the input, not here."""
        try:
            self._output.write(msgspec.json.encode(answer) + b"\n")
            self._output.flush()
        except BrokenPipeError:
            log.info("the trainer has closed its end of the pipe")

    def report(self, fraction: float) -> None:
        """Report the completed fraction of the training, unless it has hardly changed."""
        fraction = min(1.0, max(0.0, float(fraction)))  # numpy and torch scalars cannot be encoded as JSON
        if abs(fraction - self._reported) >= _REPORT_STEP:
            self._reported = fraction
            self.answer(Progress(fraction))


class Inbox:
    """Reads requests on a dedicated thread, so that the end of the input is noticed during a training."""

    def __init__(self, lines: BinaryIO) -> None:
        self._lines = lines
        self._work: queue.SimpleQueue[WorkOrder | None] = queue.SimpleQueue()
        self.closed = threading.Event()
        self.finished = threading.Event()
        self._to_stop = ""  # round id of the assignment to stop early, keeping what it has trained
        threading.Thread(target=self._read, daemon=True, name="inbox").start()

    def next(self) -> WorkOrder | None:
        """Return the next assignment; None once the input has ended."""
        return self._work.get()

    def should_stop(self, work: WorkOrder) -> bool:
        """Return whether an assignment should stop soon: the input is closed, or a StopEarly names it."""
        return self.closed.is_set() or self._to_stop == id_of(work.announcement)

    def _read(self) -> None:
        for line in self._lines:
            request = _REQUEST.decode(line)
            if isinstance(request, StopEarly):
                self._to_stop = request.round_id
            elif isinstance(request, TokenExchange):
                os.environ[ADDRESS] = request.address  # read each time credentials are requested
            else:
                self._work.put(request)
        self.closed.set()
        self._work.put(None)
        self.finished.wait(_GRACE_SECONDS)
        if os.getpgrp() == os.getpid():
            # Includes every process that the user's code has started, such as data loaders.
            os.killpg(0, signal.SIGKILL)
        # A regular exit would wait for a training whose result is no longer needed.
        os._exit(0)


def perform(
    runner: WorkRunner, work: WorkOrder, channel: Channel, stop: Callable[[], bool]
) -> Result | Failure:
    """Perform an assignment; every exception, including those of the user's task, becomes a Failure."""
    try:
        return runner.perform(work, channel.report, stop)
    except BaseException as error:  # noqa: BLE001 - the task is the user's code and may raise anything
        return failure_of(work, error, unloadable=runner.unloadable)


def main() -> None:
    """Perform assignments until the input ends."""
    # The trainer decides when this process ends: a Ctrl-C or a signal to the whole process group must not
    # look like a failed training.
    for number in _ENDING_SIGNALS:
        # Not SIG_IGN: programs started by the user's code would inherit it.
        signal.signal(number, lambda *_: None)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for chatty in ("boto3", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    lines, output = take_pipes()
    inbox = Inbox(lines)

    def report_waiting(reason: str) -> None:
        Channel(output).answer(Waiting(encodable(reason)))

    download = ModelDownload(report_waiting)
    runner = WorkRunner(download.fetch, download.read)
    own_pid = os.getpid()
    while work := inbox.next():
        channel = Channel(output)
        if work.packages and work.packages not in sys.path:
            sys.path.append(work.packages)  # at the end: it never hides what the trainer has
        answer = perform(runner, work, channel, partial(inbox.should_stop, work))
        if os.getpid() != own_pid:
            os._exit(1)  # a child that the user's code forked has returned to this loop
        channel.answer(answer)
    inbox.finished.set()


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes from and to the trainer, and hide them from the user's code and its children.

    Afterwards anything printed to stdout is written to the log, and stdin is empty. Forked children, such as
    the workers of a data loader, do not inherit the pipes: otherwise the trainer would not notice the end of
    this process, and multiprocessing, which closes ``sys.stdin`` in a child, would block indefinitely on the
    lock that the inbox thread holds.
    """
    lines, output = os.dup(sys.stdin.fileno()), os.dup(sys.stdout.fileno())
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, sys.stdin.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def leave_to_parent() -> None:
        for pipe in (lines, output):
            os.dup2(nothing, pipe, inheritable=False)
        for number in _ENDING_SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    os.register_at_fork(after_in_child=leave_to_parent)
    return os.fdopen(lines, "rb"), os.fdopen(output, "wb")


if __name__ == "__main__":
    main()
