"""What the cloud functions need of the world, as interfaces.

Each has one contract suite in tests/contracts/, which runs over the AWS adapter and over the in-memory one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Protocol

from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.messages import Completion
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.rounds import Event, Participant, Participation, Round
from fedgrass.federation.runs import Progress, Run, RunState
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.sampling import anyone
from fedgrass.federation.weights import Layout


class RoundStore(Protocol):
    """Runs, rounds and participants. Every write is conditional; a lost race raises ``LostRace``."""

    def create_run(self, run: Run) -> None:
        """Store a new run. Raises LostRace if the name is taken."""

    def run(self, name: str) -> Run | None:
        """Return a run, or None."""

    def runs(self) -> dict[str, RunState]:
        """Return the state of every run there ever was, by name."""

    def living(self) -> list[str]:
        """Return the names of the runs that are RUNNING or PAUSED; runs that ended cost it nothing."""

    def change_run(self, run: Run, **changes: object) -> Run:
        """Change fields of a run.

        Raises LostRace if its state, round or attempt has changed; where ``actions`` is among the changes
        also if another action was done meanwhile.
        """

    def ask(self, first: Round, devices: Sequence[str]) -> None:
        """Store the participants of a round that is about to be opened, ASKED at its ``opened_at``.

        Those that are stored already stay as they are.
        """

    def open_round(self, run: Run, first: Round, progress: Progress) -> None:
        """Store a new round and make it the run's newest, with the run's progress; all or nothing.

        The run waits for no device any more.
        Raises LostRace if it is there already, or if the run has moved on from where ``run`` stands.
        """

    def round(self, run: str, number: int, attempt: int) -> Round | None:
        """Return one attempt at a round, or None."""

    def replace(
        self, current: Round, silent: Sequence[Participant], devices: Sequence[str], *, replaced: int, at: int
    ) -> None:
        """Ask ``devices`` in place of others, as a batch of their own that is to be announced.

        ``replaced`` is for how many losses of ``current`` that is, and ``at`` the time of it. Participants in
        ``silent``, which never accepted, become SILENT and are counted as such and as replaced. At most 49
        of each; all or nothing. Raises LostRace if the round is not OPEN or has not the ``batches`` and the
        ``replaced`` of ``current`` any more, or if a silent one has spoken meanwhile.
        """

    def mark_announced(self, current: Round, at: int) -> None:
        """Note that all batches of ``current`` were announced by ``at``; of the first, how long that took.

        Raises LostRace if another batch was asked since, or if that was noted already.
        """

    def move(self, current: Round, event: Event, **changes: object) -> Round:
        """Move a round as ``TRANSITIONS`` says, with ``changes`` to its other fields.

        Raises LostRace if its state or fence is not the one of ``current`` any more; for SHARDS_MADE also if
        its ``refused`` is not.
        """

    def participant(self, of: Round, device: str) -> Participant | None:
        """Return one device's part in a round, or None."""

    def participants(self, of: Round) -> Iterator[Participant]:
        """Return all participants of a round, by device name."""

    def count_reply(self, of: Round, part: Participant, reply: Completion, received_at: int) -> None:
        """Make a participant REPLIED and count it, both or neither, if the round is OPEN.

        What the reply says is kept with the participant, ``announced_at`` too, and the group that is ``of``'s
        next: replies that are counted at the same moment may make a group a little larger than the others.

        Raises LostRace if the round is not OPEN or the participant is not in the state of ``part`` any more.
        """

    def move_participant(self, of: Round, part: Participant, target: Participation, reason: str) -> None:
        """Move a participant, and the round's counters as ``counters`` says, both or neither.

        Raises LostRace if the round is not OPEN or the participant is not in the state of ``part`` any more.
        """

    def refuse_update(self, of: Round, device: str, reason: str) -> None:
        """Make a REPLIED participant REFUSED and count that, if ``of`` still holds the lease.

        Raises LostRace if the lease is somebody else's or the participant has moved on.
        """

    def begin_group(self, of: Round, example_cap: int = 0) -> None:
        """Count a group more that was handed over, and keep ``example_cap`` as the round's.

        Raises LostRace if the round is not OPEN or has not the ``groups`` of ``of`` any more.
        """

    def members(self, of: Round, group: int) -> Iterator[Participant]:
        """Return the participants that were counted in a group, by device name; nobody else is read."""

    def count_late(self, of: Round, part: Participant, received_at: int) -> None:
        """Make a participant LATE and count that, both or neither, if the round is in the state of ``of``.

        Raises LostRace if the round or the participant has moved on.
        """

    def unsettled(self) -> list[str]:
        """Return the names of the runs that have ended and of which ``settle`` was not called since."""

    def settle(self, name: str) -> None:
        """Note that a run which has ended left nothing undone."""

    def note_failure(self, of: Round, failure: str) -> None:
        """Note why an averager cannot end its lease. Raises LostRace if the lease is another's by now."""

    def restore_run(self, lost: Run, over: Run | None = None) -> None:
        """Store a run and its entries in the lists of runs, each only where it is missing.

        With ``over``, in place of that row. Raises LostRace if that has moved on from where it stands.
        """

    def restore_round(self, lost: Round, over: Round | None = None) -> None:
        """Store a round unless it is there; with ``over``, in place of that row.

        Raises LostRace if the state or the fence of that row has changed.
        """

    def restore_participants(self, of: Round, lost: Sequence[Participant], *, over: bool = False) -> None:
        """Store participants of a round; those that are there stay as they are, unless ``over`` is set."""


class DeviceDirectory(Protocol):
    """The devices that heartbeats have registered."""

    def seen_since(self, earliest: int) -> Iterator[Candidate]:
        """Yield the devices whose last heartbeat came at ``earliest`` (milliseconds, cloud) or later."""

    def sample(
        self, earliest: int, wanted: int, rng: Random, suits: Callable[[Candidate], bool] = anyone
    ) -> list[Candidate]:
        """Return ``wanted`` or more suitable devices, drawn at random, and no others.

        Fewer only if there are no more. What is read grows with ``wanted``, not with the fleet.
        """

    def count(self, earliest: int) -> int:
        """Return how many devices ``seen_since`` has. Reads them all, and holds none."""

    def find(self, device: str) -> Candidate | None:
        """Return one device, however long ago it was seen, or None."""


class ThingGroups(Protocol):
    """The groups into which an operator sorts things."""

    def members(self, group: str) -> frozenset[str]:
        """Return the things of a group and of the groups in it. Raises KeyError if there is no such group."""


class Bucket(Protocol):
    """The bucket of models, updates and cohorts. A missing object raises ``KeyError`` with its key.

    What the store answers about one object (it is archived, or encrypted with a foreign key, or forbidden)
    raises ``UpdateRefused``, which names it. Any other exception of a read says that the store as a whole
    cannot be read at the moment: the work has to be repeated.
    """

    name: str
    lanes: int  # how many requests at once suit it
    range_bytes: int  # how many bytes of one object a request should ask for

    def read(self, key: str, largest: int) -> bytes:
        """Return an object. Raises UpdateRefused if it has more than ``largest`` bytes."""

    def read_into(self, key: str, start: int, target: memoryview, version: str = "") -> str:
        """Fill ``target`` with the bytes from ``start`` on; return the version of the object that has them.

        Every write makes another version, whatever its bytes are. Where ``version`` is given, which an
        earlier read has returned, no other one is read. To read no bytes asks for nothing: it returns
        ``version``.

        Raises:
            UpdateRefused: the object is shorter, or is another version by now.
        """

    def read_layout(self, key: str) -> Layout:
        """Return the layout of a weights file without reading its data. Raises UpdateRefused."""

    def write(self, key: str, data: bytes) -> None:
        """Write an object, over whatever is there."""

    def write_once(self, key: str, data: bytes) -> bytes:
        """Write an object unless there is one; return the bytes that are there now."""

    def read_version(self, key: str, largest: int) -> tuple[bytes, str]:
        """Return an object as ``read`` does, and a word for this version of it."""

    def write_over(self, key: str, data: bytes | bytearray, version: str | None) -> bool:
        """Write an object if it still is that version; None: if there is none. Return whether it was."""

    def exists(self, key: str) -> bool:
        """Return whether there is an object."""

    def create(self, key: str) -> "ObjectWriter":
        """Return a writer of an object that comes piece by piece; it is there once that is finished."""

    def copy_once(self, source: str, target: str) -> bool:
        """Copy an object of at most 5 GB unless there is one at ``target``; return whether it was copied."""


class ObjectWriter(Protocol):
    """Writes one object. Whoever begins one calls ``finish`` or ``abort``."""

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes; they may be changed once this returns."""

    def finish(self) -> None:
        """Make the object of what was written, over whatever is there; if that fails, as ``abort``."""

    def abort(self) -> None:
        """Leave no object, nor anything else that was written."""


class Publisher(Protocol):
    """MQTT, from the cloud."""

    def publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Publish (topic, payload) pairs at QoS 1, in any order; returns when the broker has them all."""


class Alarms(Protocol):
    """What comes back later, as a message to the averager."""

    def set(self, alarm: Alarm) -> None:
        """Set an alarm; setting it again changes nothing.

        Alarms that differ in their time are two: of two workers that open the same round, one loses, and its
        alarm must not ring for the other's round.
        """

    def cancel(self, alarm: Alarm) -> None:
        """Remove an alarm if it is still there."""

    def hand_over(self, job: Job) -> None:
        """Hand a job to another worker, which gets it at once, and perhaps twice."""

    def remind(self, reminder: Reminder, seconds: int) -> None:
        """Send a reminder that arrives after ``seconds``, at most 900; it cannot be taken back."""
