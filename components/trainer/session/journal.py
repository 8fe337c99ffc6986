"""State that survives a restart: the journal, and the result file of each update.

The journal holds the assignment in progress and the replies that were sent. The worker writes the result
file, so that a process that dies before the next journal entry costs no training:

    updates/<update>.unfinished      the update while it is written
    updates/<update>.result          the assignment it belongs to, and its result
    updates/<update>                 the update, renamed to this name last

The trainer reads the result file where the worker's answer is missing, because one of the two was killed
between the last byte of the update and the journal entry.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from components.runtime.atomic_file import publish_file, unfinished, write_atomically
from components.trainer.worker.worker_protocol import Result, WorkOrder, id_of
from fedgrass.federation import training_settings
from fedgrass.federation.messages import Announcement, Completion, Status

_REPLIES_KEPT = 8  # an older announcement that is repeated is trained again, and refused as late
LONGEST_METRICS = 512  # characters, as in a heartbeat
log = logging.getLogger(__name__)


class Accepted(Struct, frozen=True):
    """The assignment in progress. Without a result, its training has to be repeated."""

    announcement: Announcement
    result: Result | None = None


class Reply(Struct, frozen=True, kw_only=True):
    """The reply to an announcement: its completion or its failure."""

    announcement: Announcement
    completion: Completion | None = None
    failed: Status | None = None
    settled: bool = False  # the cloud has sent its verdict, or none is expected

    @property
    def round_id(self) -> str:
        """The attempt of a round that the reply belongs to."""
        return id_of(self.announcement)


class State(Struct, frozen=True):
    """The contents of the journal."""

    work: Accepted | None = None
    replies: tuple[Reply, ...] = ()  # the latest last
    examples: dict[str, int] = {}  # number of examples by task
    metrics: dict[str, tuple[str, ...]] = {}  # names that each task reported of its last training
    fleet: str = ""  # of the assignment and the replies; empty in a journal of an older version


def known_metrics(state: State, tasks: Iterable[str]) -> str:
    """Return the names of all metrics of some tasks, separated by commas.

    Empty if one of the tasks was never trained here, because its metrics are unknown, and if the names are
    too long for a heartbeat, because an incomplete list would mislead.
    """
    found = [state.metrics.get(task) for task in tasks]
    names = ",".join(sorted({name for known in found if known for name in known}))
    return "" if None in found or len(names) > LONGEST_METRICS else names


class Journal:
    """The state on disk, in one file of the component's work folder, replaced atomically."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal.json"
        self.state = self._load()

    def enter(self, fleet: str) -> None:
        """Record the device's fleet; drop the assignment and the replies of another fleet."""
        former = self.state.fleet
        if former == fleet:
            return
        changed = msgspec.structs.replace(self.state, fleet=fleet)
        if former:
            log.info("dropped the work and replies of fleet %s: the device is in fleet %s now", former, fleet)
            changed = msgspec.structs.replace(changed, work=None, replies=())
        self._save(changed)

    def take(self, work: Accepted | None) -> None:
        """Record the assignment in progress; None if it ended without a reply."""
        self._save(msgspec.structs.replace(self.state, work=work))

    def record_result(self, announcement: Announcement, result: Result) -> None:
        """Record the result of an assignment in one write, because the next restart relies on it."""
        task, trained = announcement.task, announcement.work == "train"
        state = self.state
        measured = tuple(sorted(training_settings.without_local_metrics(result.reported)))
        changed = msgspec.structs.replace(
            state,
            work=Accepted(announcement, result),
            examples={**state.examples, task: result.examples_of_task},
            metrics={**state.metrics, task: measured} if trained else state.metrics,
        )
        self._save(changed)

    def answer(self, reply: Reply) -> None:
        """Record a reply or its change; its assignment is over."""
        others = [kept for kept in self.state.replies if kept.round_id != reply.round_id]
        work = self.state.work
        if work and id_of(work.announcement) == reply.round_id:
            work = None
        replies = (*others, reply)[-_REPLIES_KEPT:]
        self._save(msgspec.structs.replace(self.state, work=work, replies=replies))

    def reply_to(self, round_id: str) -> Reply | None:
        """Return the reply to an announcement; None if there is none, or it was dropped."""
        return next((reply for reply in self.state.replies if reply.round_id == round_id), None)

    def _load(self) -> State:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read, starting a new one: %s", self._path, error)
            return State()

    def _save(self, state: State) -> None:
        self.state = state
        try:
            write_atomically(self._path, msgspec.json.encode(state))
        except OSError as error:
            # The assignment continues: at worst, a restart repeats it.
            log.warning("%s cannot be written: %s", self._path, error)


# Created before any thread starts: see fedgrass/federation/messages/message_codec.py.
_FINISHED = msgspec.json.Decoder(Accepted)


def result_path(update: Path) -> Path:
    """Return the path of an update's result file."""
    return update.with_name(update.name + ".result")


def publish_result(work: WorkOrder, result: Result) -> Result:
    """Write the result file of an assignment, then rename its update; return the result.

    Work without an update, such as an evaluation, leaves no file.
    """
    update = Path(work.update)
    if result.bytes == 0:
        return result
    write_atomically(result_path(update), msgspec.json.encode(Accepted(work.announcement, result)))
    publish_file(unfinished(update), update)
    return result


def published_result(update: Path, announcement: Announcement) -> Result | None:
    """Return the result of an assignment with a complete update; None if it has to be repeated."""
    try:
        kept = _FINISHED.decode(result_path(update).read_bytes())
        size = update.stat().st_size
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("%s: the result file cannot be read: %s", id_of(announcement), error)
        return None
    if kept.result is None or kept.announcement != announcement or kept.result.bytes != size:
        return None
    return kept.result
