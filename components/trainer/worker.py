"""The worker process: ``python3 -m components.trainer.worker``. Lines of JSON in, lines of JSON out.

It ends when its input does: the trainer closed it, or is no more.
"""

import logging
import os
import queue
import signal
import sys
import threading
from typing import BinaryIO

import msgspec

from components.trainer.storage import ModelStore
from components.trainer.worker_protocol import Answer, Failure, Progress, Result, Work
from components.trainer.workshop import Workshop, describe
from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.messages import shorten

GRACE_SECONDS = 0.8  # for a training to end by itself; the trainer kills a little later
REPORT_STEP = 0.01  # of the training: finer steps are not told
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
        fraction = min(1.0, max(0.0, fraction))
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
        threading.Thread(target=self._read, daemon=True, name="inbox").start()

    def next(self) -> Work | None:
        """Return the next work, None when there will be no more."""
        return self._work.get()

    def _read(self) -> None:
        for line in self._lines:
            self._work.put(msgspec.json.decode(line, type=Work))
        self.closed.set()
        self._work.put(None)
        self.finished.wait(GRACE_SECONDS)
        # Without the usual clean-up, which would wait for a training that nobody wants any more.
        os._exit(0)


def perform(workshop: Workshop, work: Work, channel: Channel, stop: threading.Event) -> Result | Failure:
    """Do one work; whatever goes wrong in it, of the user's task too, becomes a line that says so."""
    try:
        return workshop.perform(work, channel.report, stop.is_set)
    except FedgrassError as error:
        return Failure(shorten(str(error)))
    except MemoryError:
        return Failure("the device has not enough memory for this work")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the task is the user's code
        return Failure(shorten(f"task {work.announcement.task!r} failed: {describe(error)}"))


def main() -> None:
    """Take work until there is no more."""
    # The trainer decides when this process ends: a Ctrl-C or a stop of the whole group must not look to it
    # like a training that failed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for chatty in ("boto3", "botocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # The user's code may print: what it prints goes to the log, and the answers have a stream of their own.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    inbox = Inbox(sys.stdin.buffer)
    workshop = Workshop(ModelStore().fetch)
    while work := inbox.next():
        channel = Channel(output)
        channel.answer(perform(workshop, work, channel, inbox.closed))
    inbox.finished.set()


if __name__ == "__main__":
    main()
