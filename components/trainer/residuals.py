"""What updates left unsaid, on disk: the memory of error feedback, which outlives rounds and restarts.

    residuals/<run>.safetensors         what all updates that were uploaded left over
    updates/<update>.residual           what it will be once that update is uploaded

So an update that never reaches the cloud changes nothing: its change is trained anew, and what was left over
before it is still there. No numpy here: the arrays are the worker's (update_file.py).
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from fedgrass.federation.names import checked_name

KEPT_SECONDS = 30 * 24 * 3600  # later, what was left over is of a model that is long gone
log = logging.getLogger(__name__)


def beside(update: Path) -> Path:
    """Return where the worker writes what an update leaves over."""
    return update.with_name(update.name + ".residual")


class Residuals:
    """The files of a device: at most one run's at a time, each of the size of the model."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._now = now  # of the clock that also dates the files: no other clock is compared with it

    def path(self, run: str) -> Path:
        """Return where that of a run lies, if there is one."""
        return self._folder / f"{checked_name('run', run)}.safetensors"

    def adopt(self, update: Path, run: str) -> None:
        """Take note that an update was uploaded. Repeating it does no harm."""
        left_over = beside(update)
        if not left_over.exists():
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            left_over.replace(self.path(run))
        except OSError as error:
            # The next update begins from what was left over before: some of it is said twice.
            log.warning("%s cannot be kept: %s", left_over, error)

    def sweep(self, run: str = "") -> None:
        """Remove what is too old and, once a device works for ``run``, what is of other runs."""
        for file in self._folder.glob("*") if self._folder.exists() else ():
            age = self._now() - file.stat().st_mtime
            if age > KEPT_SECONDS or (run and file != self.path(run)):
                log.info(
                    "removed %s: %s", file.name, "too old" if age > KEPT_SECONDS else f"now works for {run}"
                )
                file.unlink(missing_ok=True)
