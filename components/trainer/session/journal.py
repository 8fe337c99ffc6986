"""What outlives a restart: the journal, and the result file of each update.

The journal holds the assignment whose update is written, and the replies that were sent. The result file
is written by the worker, so that a process that dies before the next journal entry costs no training:

    updates/<update>.unfinished      the update while it is written
    updates/<update>.result          which assignment it belongs to, and what is reported of it
    updates/<update>                 the update; renamed to this name last

The trainer reads the result file where it does not have the worker's answer, because one of the two was
killed between the update's last byte and the journal entry.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from components.runtime.atomic_file import publish_file, unfinished, write_atomically
from components.trainer.worker.worker_protocol import Result, Work, id_of
from fedgrass.federation import training_settings
from fedgrass.federation.messages import Announcement, Completion, Status

REPLIES_KEPT = 8  # an announcement that comes again later than that is worked on again, and refused as late
LONGEST_METRICS = 512  # characters, as in a heartbeat
log = logging.getLogger(__name__)


class Accepted(Struct, frozen=True):
    """The work that was taken. Without a result its training has to be done again."""

    announcement: Announcement
    result: Result | None = None


class Reply(Struct, frozen=True, kw_only=True):
    """What was answered to an announcement: the completion of the work, or that it failed."""

    announcement: Announcement
    completion: Completion | None = None
    failed: Status | None = None
    settled: bool = False  # the cloud gave its verdict, or none is to be waited for

    @property
    def round_id(self) -> str:
        """The attempt at a round that was answered."""
        return id_of(self.announcement)


class State(Struct, frozen=True):
    """All that the journal holds; ``replies`` has the newest last, ``examples`` counts them by task.

    ``metrics`` has the names of what each task measured in its last training, of the global model and of it.
    """

    work: Accepted | None = None
    replies: tuple[Reply, ...] = ()
    examples: dict[str, int] = {}
    metrics: dict[str, tuple[str, ...]] = {}
    fleet: str = ""  # that work and replies belong to; empty in a journal of an older version


def known_metrics(state: State, tasks: Iterable[str]) -> str:
    """Return the names of all that some tasks measure, with commas between them.

    Empty if one of them was never trained here, since a run of it could not be told from one that asks for a
    metric that nobody has; and if the names are too long for a heartbeat, of which a part would mislead too.
    """
    found = [state.metrics.get(task) for task in tasks]
    names = ",".join(sorted({name for known in found if known for name in known}))
    return "" if None in found or len(names) > LONGEST_METRICS else names


class Journal:
    """The state on disk, in a file of the component's work folder that is replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal.json"
        self.state = self._load()

    def enter(self, fleet: str) -> None:
        """Write down the fleet; work and replies of another one are of no use in it, and are forgotten."""
        former = self.state.fleet
        if former == fleet:
            return
        changed = msgspec.structs.replace(self.state, fleet=fleet)
        if former:
            log.info("what is left of fleet %s is dropped: the device is in fleet %s now", former, fleet)
            changed = msgspec.structs.replace(changed, work=None, replies=())
        self._save(changed)

    def take(self, work: Accepted | None) -> None:
        """Write down the work that is in hand; None when it is out of hand with no reply."""
        self._save(msgspec.structs.replace(self.state, work=work))

    def finish(self, announcement: Announcement, result: Result) -> None:
        """Write down what a work made and measured: in one go, since the next restart relies on it."""
        task, trained = announcement.task, announcement.work == "train"
        state = self.state
        measured = tuple(sorted(training_settings.without_local_metrics(result.reported)))
        changed = msgspec.structs.replace(
            state,
            work=Accepted(announcement, result) if trained else state.work,
            examples={**state.examples, task: result.examples_of_task},
            metrics={**state.metrics, task: measured} if trained else state.metrics,
        )
        self._save(changed)

    def answer(self, reply: Reply) -> None:
        """Write down a reply, or what became of it; its work is out of hand."""
        others = [kept for kept in self.state.replies if kept.round_id != reply.round_id]
        work = self.state.work
        if work and id_of(work.announcement) == reply.round_id:
            work = None
        replies = (*others, reply)[-REPLIES_KEPT:]
        self._save(msgspec.structs.replace(self.state, work=work, replies=replies))

    def reply_to(self, round_id: str) -> Reply | None:
        """Return what was answered to an announcement, if it is still known."""
        return next((reply for reply in self.state.replies if reply.round_id == round_id), None)

    def _load(self) -> State:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read, and is begun anew: %s", self._path, error)
            return State()

    def _save(self, state: State) -> None:
        self.state = state
        try:
            write_atomically(self._path, msgspec.json.encode(state))
        except OSError as error:
            # The work goes on: a restart would do it again, that is all.
            log.warning("%s cannot be written: %s", self._path, error)


# Made before any thread can: see fedgrass/federation/messages/__init__.py.
FINISHED = msgspec.json.Decoder(Accepted)


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
    write_atomically(result_beside(update), msgspec.json.encode(Accepted(work.announcement, result)))
    publish_file(unfinished(update), update)
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
