"""What a work made and measured, on disk beside its update: a process that dies then costs no training.

    updates/<update>.unfinished      the update while it is written
    updates/<update>.result          of which work it is, and what is told of it
    updates/<update>                 the update; it gets its name last of all

The worker writes them. The trainer reads them where it does not have the worker's answer: one of the two was
killed between the update's last byte and the journal's line about it.
"""

import logging
import os
from pathlib import Path

import msgspec

from components.trainer.journal import Accepted
from components.trainer.worker_protocol import Result, Work, id_of
from fedgrass.federation.messages import Announcement

# Made before any thread can: see fedgrass/federation/messages.py.
FINISHED = msgspec.json.Decoder(Accepted)
log = logging.getLogger(__name__)


def unfinished(update: Path) -> Path:
    """Return where an update is written before it has its name."""
    return update.with_name(update.name + ".unfinished")


def result_beside(update: Path) -> Path:
    """Return where the result of an update's work is written."""
    return update.with_name(update.name + ".result")


def finish(work: Work, result: Result) -> Result:
    """Write a work's result down, then give its update its name; return the result.

    A work without an update leaves nothing.
    """
    update = Path(work.update)
    if result.bytes == 0:
        return result
    beside = result_beside(update)
    with unfinished(beside).open("wb") as file:
        file.write(msgspec.json.encode(Accepted(work.announcement, result)))
        file.flush()
        os.fsync(file.fileno())
    unfinished(beside).replace(beside)
    unfinished(update).replace(update)
    return result


def finished(update: Path, announcement: Announcement) -> Result | None:
    """Return the result of a work whose update is whole; None if it has to be done again."""
    try:
        kept = FINISHED.decode(result_beside(update).read_bytes())
        size = update.stat().st_size
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("%s: what was made before cannot be read: %s", id_of(announcement), error)
        return None
    if kept.result is None or kept.announcement != announcement or kept.result.bytes != size:
        return None
    return kept.result
