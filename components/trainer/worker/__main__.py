"""The worker process: ``python3 -m components.trainer.worker``. Lines of JSON in, lines of JSON out.

It ends when its input does: the trainer closed it, or is no more.
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
from components.trainer.worker.resource_limits import out_of_memory
from components.trainer.worker.work_runner import WorkRunner, describe
from components.trainer.worker.worker_protocol import (
    Answer,
    Failure,
    Finish,
    Progress,
    Request,
    Result,
    TokenExchange,
    Waiting,
    Work,
    id_of,
)
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages.message_fields import shorten

GRACE_SECONDS = 0.8  # for a training to end by itself; the trainer kills a little later
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
REPORT_STEP = 0.01  # of the training: finer steps are not told
# Made before any thread can: see fedgrass/federation/messages/__init__.py.
REQUEST: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
log = logging.getLogger(__name__)


class Channel:
    """The way back to the trainer."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._told = 0.0

    def answer(self, answer: Answer) -> None:
        """Write one line; a trainer that is gone is noticed by the input's end."""
        try:
            self._output.write(msgspec.json.encode(answer) + b"\n")
            self._output.flush()
        except BrokenPipeError:
            log.info("the trainer is gone")

    def report(self, fraction: float) -> None:
        """Tell how much of the training is done, if that is news."""
        fraction = min(1.0, max(0.0, float(fraction)))  # numpy's and torch's numbers are no JSON
        if abs(fraction - self._told) >= REPORT_STEP:
            self._told = fraction
            self.answer(Progress(fraction))


class Inbox:
    """Reads work on a thread of its own, and so sees the input's end in the middle of a training."""

    def __init__(self, lines: BinaryIO) -> None:
        self._lines = lines
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self.closed = threading.Event()
        self.finished = threading.Event()
        self._to_finish = ""  # the work that is to end with what it has
        threading.Thread(target=self._read, daemon=True, name="inbox").start()

    def next(self) -> Work | None:
        """Return the next work, None when there will be no more."""
        return self._work.get()

    def wants_end_of(self, work: Work) -> bool:
        """Return whether a work is to end soon: it is given up, or is to give what it has."""
        return self.closed.is_set() or self._to_finish == id_of(work.announcement)

    def _read(self) -> None:
        for line in self._lines:
            request = REQUEST.decode(line)
            if isinstance(request, Finish):
                self._to_finish = request.round_id
            elif isinstance(request, TokenExchange):
                os.environ[ADDRESS] = request.address  # read whenever credentials are asked for
            else:
                self._work.put(request)
        self.closed.set()
        self._work.put(None)
        self.finished.wait(GRACE_SECONDS)
        if os.getpgrp() == os.getpid():
            # With all that the user's code started, such as the processes that load its data.
            os.killpg(0, signal.SIGKILL)
        # Without the usual clean-up, which would wait for a training that nobody wants any more.
        os._exit(0)


def perform(workshop: WorkRunner, work: Work, channel: Channel, stop: Callable[[], bool]) -> Result | Failure:
    """Do one work; whatever goes wrong in it, of the user's task too, becomes a line that says so."""
    try:
        return workshop.perform(work, channel.report, stop)
    except FedgrassError as error:
        return _failure(str(error))
    except MemoryError:
        return Failure(out_of_memory())
    except BaseException as error:  # noqa: BLE001 - the task is the user's code, and may raise anything
        return _failure(f"task {work.announcement.task!r} failed: {describe(error)}")


def _failure(reason: str) -> Failure:
    return Failure(_sendable(reason))


def _sendable(reason: str) -> str:
    # A file's name can hold what is no Unicode: it could not be sent.
    return shorten(reason.encode(errors="backslashreplace").decode())


def main() -> None:
    """Take work until there is no more."""
    # The trainer decides when this process ends: a Ctrl-C or a stop of the whole group must not look to it
    # like a training that failed.
    for number in ENDING_SIGNALS:
        # Not SIG_IGN, which every program that the user's code starts would inherit.
        signal.signal(number, lambda *_: None)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for chatty in ("boto3", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    lines, output = take_pipes()
    inbox = Inbox(lines)

    def waiting(reason: str) -> None:
        Channel(output).answer(Waiting(_sendable(reason)))

    workshop = WorkRunner(ModelDownload(waiting).fetch)
    own = os.getpid()
    while work := inbox.next():
        channel = Channel(output)
        answer = perform(workshop, work, channel, partial(inbox.wants_end_of, work))
        if os.getpid() != own:
            os._exit(1)  # a process that the user's code forked, and that came back here
        channel.answer(answer)
    inbox.finished.set()


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the pipes from and to the trainer, and keep them from the user's code and what it forks.

    The code may print: that goes to the log. It may read: there is nothing. It may fork, as a data loader
    with workers does: a child that held the pipes would hide this process's end from the trainer, and
    multiprocessing closes ``sys.stdin`` in it, which would wait for ever for the thread that reads there.
    """
    lines, output = os.dup(sys.stdin.fileno()), os.dup(sys.stdout.fileno())
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, sys.stdin.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def leave_to_parent() -> None:
        for pipe in (lines, output):
            os.dup2(nothing, pipe, inheritable=False)
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    os.register_at_fork(after_in_child=leave_to_parent)
    return os.fdopen(lines, "rb"), os.fdopen(output, "wb")


if __name__ == "__main__":
    main()
