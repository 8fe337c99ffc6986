"""The interfaces through which the cloud functions use the outside world.

Each has one contract suite in tests/contracts/, which runs over the AWS adapter and the in-memory adapter.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Protocol

from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.messages import Completion
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.rounds import Event, Move, Participant, Participation, Round
from fedgrass.federation.runs import Progress, Run, RunState
from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.sampling import anyone
from fedgrass.federation.weights import Layout

LONGEST_WAIT = 900.0  # seconds for any read or write of the bucket: the time limit of a Lambda function


class RoundStore(Protocol):
    """Runs, rounds and participants. Every write is conditional; a lost race raises ``LostRace``."""

    def create_run(self, run: Run) -> None:
        """Store a new run. Raises LostRace if the name is taken."""

    def run(self, name: str) -> Run | None:
        """Return a run, or None."""

    def runs(self) -> dict[str, RunState]:
        """Return the state of every run that was ever created, by name."""

    def living(self) -> list[str]:
        """Return the names of RUNNING or PAUSED runs; the cost does not grow with ended runs."""

    def change_run(self, run: Run, **changes: object) -> Run:
        """Change fields of a run.

        Raises:
            LostRace: Its state, round or attempt has changed since ``run`` was read; also ``actions`` or
                ``published``, if it is among the changes.
        """

    def ask(self, round_: Round, devices: Sequence[str]) -> None:
        """Store the participants of a round about to be opened, ASKED at the round's ``opened_at``.

        Participants already stored stay unchanged. Nothing is sent to the devices.
        """

    def open_round(self, run: Run, round_: Round, progress: Progress) -> None:
        """Store a new round and make it the run's latest, together with the run's progress; all or nothing.

        Ends the run's waiting for devices.

        Raises:
            LostRace: The round exists already, or the run has changed since ``run`` was read.
        """

    def round(self, run: str, number: int, attempt: int) -> Round | None:
        """Return one attempt at a round, or None."""

    def rounds_from(self, run: str, first: int, last: int) -> Iterator[Round]:
        """Return all attempts at rounds ``first`` to ``last``, in that order, in one range of rows."""

    def replace(
        self, round_: Round, silent: Sequence[Participant], devices: Sequence[str], *, replaced: int, at: int
    ) -> None:
        """Store ``devices`` as participants in place of lost ones, a separate batch still to be announced.

        ``replaced`` is the number of the round's losses that this makes up for, ``at`` the current time in
        milliseconds. Participants in ``silent``, which never accepted, become SILENT and are counted as
        silent and as replaced. At most 49 of each; all or nothing.

        Raises:
            LostRace: The round is not OPEN, its ``batches`` or ``replaced`` have changed, or a silent
                participant has replied since.
        """

    def lease_announcement(self, round_: Round, until: int) -> Round:
        """Take, extend or (``until`` 0) release the lease to announce ``round_``; return the round then.

        Raises:
            LostRace: The round is not OPEN, or its ``announced_batches`` or ``announcing_until`` has changed.
        """

    def mark_announced(self, round_: Round, at: int) -> None:
        """Record that all batches of ``round_`` were announced by ``at``; for the first, how long it took.

        The lease to announce it ends.

        Raises:
            LostRace: Another batch was asked since, or this was recorded already.
        """

    def move(self, current: Round, event: Event, **changes: object) -> Round:
        """Move a round according to ``TRANSITIONS``, with ``changes`` to its other fields.

        Raises:
            LostRace: Its state or fence has changed since ``current`` was read; for SHARDS_MADE also if its
                ``refused`` has.
        """

    def participant(self, round_: Round, device: str) -> Participant | None:
        """Return one device's part in a round, or None."""

    def participants(self, round_: Round) -> Iterator[Participant]:
        """Return all participants of a round, by device name."""

    def count_reply(self, round_: Round, part: Participant, reply: Completion, received_at: int) -> None:
        """Make a participant REPLIED and count it, both or neither, if the round is OPEN.

        The fields of the reply, including ``announced_at``, are stored with the participant, as is its group,
        the next one of ``round_``: replies counted concurrently may make a group slightly too large.

        Raises:
            LostRace: The round is not OPEN or the participant's state has changed.
        """

    def move_participant(self, round_: Round, part: Participant, target: Participation, reason: str) -> None:
        """Move a participant, and the round's counters accordingly, both or neither.

        Raises:
            LostRace: The round is not OPEN or the participant's state has changed.
        """

    def round_with(
        self, run: str, number: int, attempt: int, devices: Sequence[str]
    ) -> tuple[Round | None, dict[str, Participant]]:
        """Return a round and some of its participants by device name; at most 99 of them, read at once."""

    def move_together(self, round_: Round, moves: Sequence[Move]) -> None:
        """Move several participants, and the round's counters accordingly, all or none; at most 40.

        Raises:
            LostRace: The round is not OPEN or a participant's state has changed.
        """

    def fill(self, round_: Round, devices: Sequence[str], *, unfilled: int, at: int) -> None:
        """Store ``devices`` as participants of a buffer, a separate batch still to be announced.

        ``unfilled`` is the number of places in flight for which no device was found, ``at`` the current time
        in milliseconds. At most 90 devices; all or nothing.

        Raises:
            LostRace: The round is not OPEN, or its ``batches`` has changed.
        """

    def participants_from(self, run: str, first: int, last: int) -> Iterator[tuple[int, int, Participant]]:
        """Return the participants of all attempts at rounds ``first`` to ``last``, in one range of rows.

        Each with the number and the attempt of its round, in that order.
        """

    def carry(
        self,
        round_: Round,
        part: Participant,
        origin: tuple[int, int],
        target: Participation,
        values: Mapping[str, object],
    ) -> None:
        """Count in an OPEN buffer the final message of a device that was asked in an earlier round.

        Stores its row in ``round_`` with the state ``target`` and ``values``, counts it there, and makes its
        row in ``origin``, the number and the attempt of that round, CARRIED; all or nothing. A device that
        was given up as SILENT takes part again.

        Raises:
            LostRace: The round is not OPEN, the participant's state has changed, or the device has a row in
                ``round_`` already.
        """

    def move_later(
        self, round_: Round, part: Participant, target: Participation, values: Mapping[str, object]
    ) -> None:
        """Move a participant with ``values``, and the counters of its round, both or neither.

        Raises:
            LostRace: The round's or the participant's state has changed.
        """

    def refuse_update(self, round_: Round, device: str, reason: str) -> None:
        """Make a REPLIED participant REFUSED and count it, if ``round_`` still holds the lease.

        Raises:
            LostRace: Another worker holds the lease or the participant has moved on.
        """

    def begin_group(self, round_: Round, example_cap: int = 0) -> None:
        """Count one more group as handed over, and store ``example_cap`` as the round's.

        Raises:
            LostRace: The round is not OPEN or its ``groups`` has changed.
        """

    def members(self, round_: Round, group: int) -> Iterator[Participant]:
        """Return the participants counted in a group, by device name; no others are read."""

    def count_late(self, round_: Round, part: Participant, received_at: int) -> None:
        """Make a participant LATE and count it, both or neither, if the round's state is unchanged.

        Raises:
            LostRace: The round or the participant has moved on.
        """

    def unsettled(self) -> list[str]:
        """Return the names of ended runs for which ``settle`` was not called since they ended."""

    def settle(self, name: str) -> None:
        """Record that an ended run has no work left to do."""

    def note_failure(self, round_: Round, failure: str) -> None:
        """Record why an averager cannot finish. Raises LostRace if another worker holds the lease."""

    def restore_run(self, lost: Run, over: Run | None = None) -> None:
        """Store a run and its entries in the lists of runs, each only where it is missing.

        With ``over``, replace that row. Raises LostRace if the row has changed since it was read.
        """

    def restore_round(self, lost: Round, over: Round | None = None) -> None:
        """Store a round unless it exists; with ``over``, replace that row.

        Raises:
            LostRace: The state or the fence of that row has changed.
        """

    def restore_participants(self, round_: Round, lost: Sequence[Participant], *, over: bool = False) -> None:
        """Store participants of a round; existing ones stay unchanged unless ``over`` is set."""


class DeviceDirectory(Protocol):
    """The devices registered by their heartbeats."""

    def seen_since(self, earliest: int) -> Iterator[Candidate]:
        """Yield the devices last seen at ``earliest`` (milliseconds, by the cloud's clock) or later."""

    def sample(
        self, earliest: int, wanted: int, rng: Random, suits: Callable[[Candidate], bool] = anyone
    ) -> list[Candidate]:
        """Return at least ``wanted`` suitable devices, drawn at random, and no unsuitable ones.

        Returns fewer only if there are no more. The cost grows with ``wanted``, not with the fleet.
        """

    def count(self, earliest: int) -> int:
        """Return the number of devices that ``seen_since`` yields. Reads them all and holds none."""

    def find(self, device: str) -> Candidate | None:
        """Return one device, no matter when it was last seen, or None."""

    def forget(self, device: str, last_seen: int) -> None:
        """Remove a device that was last seen at ``last_seen``; its next heartbeat registers it again.

        Raises:
            LostRace: It is not registered, or was seen at another time.
        """


class ThingGroups(Protocol):
    """The operator's groups of things."""

    def members(self, group: str) -> frozenset[str]:
        """Return the things of a group and of its subgroups. Raises KeyError if the group does not exist."""


class Bucket(Protocol):
    """The bucket of models, updates and cohorts. A missing object raises ``KeyError`` with its key.

    Errors that concern one object (archived, encrypted with a foreign key, access denied) raise
    ``UpdateRefused``, which names it. Any other exception from a read means that the store is unavailable
    and the work has to be repeated.
    """

    name: str
    lanes: int  # suitable number of parallel requests
    range_bytes: int  # suitable number of bytes per ranged read

    def read(self, key: str, largest: int) -> bytes:
        """Return an object. Raises UpdateRefused if it is larger than ``largest`` bytes."""

    def read_into(self, key: str, start: int, target: memoryview, version: str = "") -> str:
        """Fill ``target`` with the bytes from ``start`` on; return the version of the object that was read.

        Every write creates a new version, even with equal bytes. If ``version``, as returned by an earlier
        read, is given, only that version is read. An empty ``target`` makes no request and returns
        ``version``.

        Raises:
            UpdateRefused: The object is shorter, or has another version by now.
        """

    def read_layout(self, key: str) -> Layout:
        """Return the layout of a weights file without reading its data. Raises UpdateRefused."""

    def write(self, key: str, data: bytes) -> None:
        """Write an object, replacing an existing one."""

    def write_once(self, key: str, data: bytes) -> bytes:
        """Write an object unless it exists; return the bytes that it has now."""

    def read_version(self, key: str, largest: int) -> tuple[bytes, str]:
        """Return an object as ``read`` does, and an identifier of its version."""

    def write_over(self, key: str, data: bytes | bytearray, version: str | None) -> bool:
        """Write an object if it still has that version, or is missing for None. Return whether it was."""

    def exists(self, key: str) -> bool:
        """Return whether an object exists."""

    def create(self, key: str) -> "ObjectWriter":
        """Return a writer of an object that is written in pieces; the object exists once it is finished."""

    def copy_once(self, source: str, target: str) -> bool:
        """Copy an object of at most 5 GB unless ``target`` exists; return whether it was copied."""


class ObjectWriter(Protocol):
    """Writes one object. The caller has to call ``finish`` or ``abort``."""

    def write(self, data: bytes | memoryview) -> None:
        """Write the next bytes; the caller may change the buffer once this returns."""

    def finish(self) -> None:
        """Create the object from what was written, replacing an existing one; on failure, as ``abort``."""

    def abort(self) -> None:
        """Discard everything that was written; no object is created."""


class Publisher(Protocol):
    """MQTT, from the cloud."""

    def publish(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Publish (topic, payload) pairs at QoS 1, in any order; return once the broker has them all."""


class Alarms(Protocol):
    """Alarms, jobs and reminders: messages to the averager that arrive later."""

    def set(self, alarm: Alarm) -> None:
        """Set an alarm; setting it again changes nothing.

        Alarms with different times are different: if two workers open the same round, one loses, and its
        alarm must not fire for the other's round.
        """

    def cancel(self, alarm: Alarm) -> None:
        """Remove an alarm if it still exists."""

    def hand_over(self, job: Job) -> None:
        """Hand a job to another worker, which receives it at once, and possibly twice."""

    def remind(self, reminder: Reminder, seconds: int) -> None:
        """Send a reminder that arrives after ``seconds``, at most 900; it cannot be cancelled."""
