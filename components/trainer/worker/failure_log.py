"""Keeps the whole traceback of each failed assignment on the device; the cloud gets one line of it.

    failures/<run>-<round>-<attempt>.txt   the latest 20, in the trainer's work folder

The reason that the cloud gets names the file if it has room for it. The end of the traceback is logged too,
so that `fedgrass devices logs` shows it.
"""

import logging
import traceback
from pathlib import Path

from components.runtime.atomic_file import write_atomically
from components.trainer.worker.worker_protocol import WorkOrder, id_of

MOST_FILES = 20
LARGEST = 128 * 1024  # bytes of one file; of a longer traceback, the middle is left out
_LOGGED = 8 * 1024  # characters of a traceback in the log
_LEFT_OUT = b"\n[... %d bytes are left out ...]\n"
log = logging.getLogger(__name__)


def keep_traceback(work: WorkOrder, error: BaseException) -> Path | None:
    """Write the traceback of an exception of the user's code; return its file, None if there is none.

    Nothing is raised: a full disk must not replace the reason of the failure by another one.
    """
    text, announcement = _text_of(error), work.announcement
    log.info("%s failed: %s", id_of(announcement), _end_of(text))
    if not work.failures:
        return None
    folder = Path(work.failures)
    path = folder / f"{announcement.run}-{announcement.round}-{announcement.attempt}.txt"
    title = f"{id_of(announcement)}: {announcement.work} {announcement.task}\n\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _bounded((title + text).encode(errors="backslashreplace")))
        _remove_old(folder)
    except OSError as problem:
        log.warning("the traceback cannot be kept in %s: %s", path, problem)
        return None
    log.info("%s: the whole traceback is in %s", id_of(announcement), path)
    return path


def _end_of(text: str) -> str:
    """Return the last lines of a traceback: those of the place that failed."""
    return text if len(text) <= _LOGGED else f"[...]{text[-_LOGGED:]}"


def _text_of(error: BaseException) -> str:
    """Return the traceback with those of its causes, as text that can be encoded.

    The texts come from the user's code, which may raise.
    """
    try:
        return "".join(traceback.format_exception(error)).encode(errors="backslashreplace").decode()
    except Exception as second:  # noqa: BLE001 - a __str__ or a __repr__ of the user's code
        places = "".join(traceback.format_tb(error.__traceback__))
        return f"{places}{type(error).__name__}: (its text raised {type(second).__name__})\n"


def _bounded(text: bytes) -> bytes:
    if len(text) <= LARGEST:
        return text
    half = LARGEST // 2 - len(_LEFT_OUT)
    return text[:half] + _LEFT_OUT % (len(text) - 2 * half) + text[-half:]


def _remove_old(folder: Path) -> None:
    files = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[MOST_FILES:]:
        file.unlink(missing_ok=True)
