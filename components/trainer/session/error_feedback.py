"""What a device remembers of its updates, on disk: it outlives rounds and restarts.

    memory/<run>.safetensors         of all updates that were uploaded
    memory/<update>.before           what it was before the newest of them, until the next training begins
    updates/<update>.memory          what it will be once that update is uploaded

One file, so that what belongs together is taken over together: what error feedback left unsaid, and the
device's control variate of SCAFFOLD. An update that never reaches the cloud changes nothing: it is trained
anew from what was remembered before it. One that came and was refused is taken back: a server that has not
heard of a change of a control variate would never again agree with the device.

No numpy here: the arrays are the worker's (memory_file.py).
"""

import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from components.runtime.atomic_file import publish_file, unfinished, write_atomically, write_unfinished
from fedgrass.federation.names import checked_name

KEPT_SECONDS = 30 * 24 * 3600  # later, what is remembered is of a model that is long gone
log = logging.getLogger(__name__)


def beside(update: Path) -> Path:
    """Return where the worker writes what is to be remembered with an update."""
    return update.with_name(update.name + ".memory")


class ErrorFeedback:
    """The files of a device: at most one run's at a time, of the size of the model or twice that."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now  # of the clock that also dates the files: no other clock is compared with it

    def path(self, run: str) -> Path:
        """Return where that of a run lies, if there is one."""
        return self._folder / f"{checked_name('run', run)}.safetensors"

    def adopt(self, update: Path, run: str) -> None:
        """Take note that an update was uploaded. Repeating it does no harm."""
        remembered = beside(update)
        if not remembered.exists():
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
            publish_file(remembered, own)
        except OSError as error:
            # The next update begins from what was remembered before: some of it is said twice.
            log.warning("%s cannot be kept: %s", remembered, error)

    def take_back(self, update: Path, run: str) -> None:
        """Take note that an update that was uploaded does not count. Repeating it does no harm.

        Once the next training has begun from what was remembered of it, it stays.
        """
        before = self._before(update)
        if not before.exists():
            return
        try:
            publish_file(before, self.path(run))
        except OSError as error:
            log.warning("what was remembered of %s cannot be taken back: %s", update.name, error)
        else:
            log.info("what was remembered of %s is taken back", update.name)

    def _before(self, update: Path) -> Path:
        return self._folder / f"{update.stem}.before"

    def sweep(self, run: str = "") -> None:
        """Remove what is too old and, once a device works for ``run``, what is of other runs."""
        for file in self._folder.glob("*") if self._folder.exists() else ():
            age = self._now() - file.stat().st_mtime
            if age > KEPT_SECONDS or (run and file != self.path(run)):
                log.info(
                    "removed %s: %s", file.name, "too old" if age > KEPT_SECONDS else f"now works for {run}"
                )
                file.unlink(missing_ok=True)
