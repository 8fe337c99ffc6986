"""The client state on disk: the arrays that a device keeps from its updates, across rounds and restarts.

    memory/<run>.safetensors         after all updates that were uploaded
    memory/<update>.before           before the latest of them, until the next training begins
    updates/<update>.memory          pending: valid once that update is uploaded

One file holds both the residual of error feedback and the device's control variate of SCAFFOLD, so that they
change together. An update that never reaches the cloud changes nothing: the next training starts from the
arrays before it. If the cloud refuses an update that arrived, its arrays are rolled back: otherwise the
server's sum of control variates would never match the devices' again.

This module does not import numpy: the worker reads and writes the arrays (update_writer.py).
"""

import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from components.runtime.atomic_file import publish_file, unfinished, write_atomically, write_unfinished
from fedgrass.federation.messages.message_fields import checked_name

KEPT_SECONDS = 30 * 24 * 3600  # older arrays belong to a model that was replaced long ago
log = logging.getLogger(__name__)


def pending_path(update: Path) -> Path:
    """Return where the worker writes the client state that becomes valid with an update."""
    return update.with_name(update.name + ".memory")


class ErrorFeedback:
    """The files of one device: those of at most one run, of once or twice the size of the model."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now  # the clock that also dates the files, compared with no other clock

    def path(self, run: str) -> Path:
        """Return the path of a run's client state, which may not exist."""
        return self._folder / f"{checked_name('run', run)}.safetensors"

    def adopt(self, update: Path, run: str) -> None:
        """Make the pending client state of an uploaded update valid. Repeating it does no harm."""
        pending = pending_path(update)
        if not pending.exists():
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            before, own = self._before(update), self.path(run)
            if own.exists():
                with own.open("rb") as source:
                    write_unfinished(before, partial(shutil.copyfileobj, source))
                publish_file(unfinished(before), before)
            else:
                write_atomically(before, b"")  # read as: nothing is kept
            publish_file(pending, own)
        except OSError as error:
            # The next update starts from the state before: it sends a part of the residual twice.
            log.warning("%s cannot be kept: %s", pending, error)

    def take_back(self, update: Path, run: str) -> None:
        """Roll back the client state of an uploaded update that the cloud refused. Repeating it does no harm.

        Once the next training has started from it, it stays.
        """
        before = self._before(update)
        if not before.exists():
            return
        try:
            publish_file(before, self.path(run))
        except OSError as error:
            log.warning("the client state cannot be rolled back to that before %s: %s", update.name, error)
        else:
            log.info("the client state is rolled back to that before %s", update.name)

    def _before(self, update: Path) -> Path:
        return self._folder / f"{update.stem}.before"

    def sweep(self, run: str = "") -> None:
        """Remove files that are too old and, if ``run`` is given, those of other runs."""
        for file in self._folder.glob("*") if self._folder.exists() else ():
            age = self._now() - file.stat().st_mtime
            if age > KEPT_SECONDS or (run and file != self.path(run)):
                log.info(
                    "removed %s: %s",
                    file.name,
                    "too old" if age > KEPT_SECONDS else f"belongs to another run than {run}",
                )
                file.unlink(missing_ok=True)
