"""Send messages to devices in rounds of the fleet, and collect what becomes of each.

    push      content to the bucket, the list of the round's messages, the initiator's action ``send``
    collect   the round's row and participants, and the replies of those that have replied

A device has at most one message at a time; further ones wait here (message_queue.py). Devices are never
polled: what they do is in the rounds table, written by the cloud.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol
from uuid import uuid4

import msgspec

from fedgrass.console.flower.content_files import FileInPieces, MessagePart, StoredContent, store_content
from fedgrass.console.flower.message_outcomes import ENDED, Failure, Outcome, failure_of, read_reply
from fedgrass.console.flower.message_queue import Letter, MessageQueue
from fedgrass.console.runs.streamed_bucket import StreamedObjects
from fedgrass.federation import object_keys
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.messages import MessageHeader
from fedgrass.federation.rounds import Participant, Participation, Round
from fedgrass.federation.runs import LIVING, Run, RunState
from fedgrass.federation.task_messages.round_messages import (
    BUSY,
    LARGEST_LIST,
    MOST_OPEN,
    TOO_MANY_OPEN,
    MessageGroup,
    RoundMessages,
    decode_messages,
    encode_messages,
)
from fedgrass.federation.weights import sha256

_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.03, 1.0, 1.3  # seconds between two looks at the rounds table
_PARTICIPANTS_SHARE = 5.0  # participants are read again after this many times the seconds that it takes
_REFUSED_PAUSE = 2.0  # seconds until messages are offered again to a run that is paused or has too many
_LONGEST_TTL = 366 * 24 * 3600.0  # seconds
_GRACE = 60.0  # seconds after a message's time to live in which the cloud ends its round


class ExchangeFailed(FedgrassError):
    """The run takes no more messages: it was ended, or another ServerApp drives it."""


class ExchangeClosed(FedgrassError):
    """The exchange was closed by this process, such as at an interruption."""


class FleetRun(Protocol):
    """What an exchange needs of the operator's access to a fleet; see ``Operator``."""

    @property
    def bucket(self) -> StreamedObjects:
        """The fleet's bucket."""

    def run(self, name: str) -> Run:
        """Return a run. Raises SettingsError if it does not exist."""

    def message_devices(self, name: str) -> list[str]:
        """Return the thing names of the devices to which a run may send messages."""

    def send_messages(self, name: str, number: int, list_sha256: str) -> None:
        """Open a round for a list of messages. Raises SettingsError if the initiator refuses."""

    def round(self, name: str, number: int, attempt: int = 1) -> Round | None:
        """Return one attempt at a round, or None."""

    def participants(self, round_: Round) -> Sequence[Participant]:
        """Return the participants of a round."""


class Observer(Protocol):
    """Is told what happens to the messages; called by the threads that push and collect."""

    def sent(self, number: int, letters: Sequence[Letter], *, adopted: bool) -> None:
        """Messages were sent in a round, or those of an earlier process were adopted."""

    def stored(self, size: int) -> None:
        """A file of this many bytes was uploaded."""

    def seen(self, round_: Round) -> None:
        """A round was read from the table."""

    def collected(self, number: int, device: str, outcome: Outcome) -> None:
        """The outcome of a message is known."""

    def postponed(self, device: str, reason: str) -> None:
        """A device declined because it is busy; its message is sent again later."""

    def held_up(self, reason: str) -> None:
        """The run takes no messages at the moment; the reason is the initiator's."""


class _Silent:
    """An observer that shows nothing."""

    def sent(self, number: int, letters: Sequence[Letter], *, adopted: bool) -> None: ...
    def stored(self, size: int) -> None: ...
    def seen(self, round_: Round) -> None: ...
    def collected(self, number: int, device: str, outcome: Outcome) -> None: ...
    def postponed(self, device: str, reason: str) -> None: ...
    def held_up(self, reason: str) -> None: ...


class _OpenRound:
    """A round in which messages are outstanding."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.letters: dict[str, Letter] = {}  # outstanding, by device
        self.replied: dict[str, Participant] = {}  # of these, the ones whose reply can be read
        self.row: Round | None = None
        self.read_at = 0.0  # when its participants were read
        self.read_seconds = 0.0
        self.counted = -1  # final messages that its row counted when they were read


class MessageExchange:
    """The messages of one run, between this process and the devices.

    Args:
        fleet: the operator's access to the fleet.
        run: name of the run, with ``mode: server_app``.
        observer: is told what happens; None: nobody is.
        clock: returns the seconds since the epoch.
        pause: waits for a number of seconds; returns whether the exchange was closed. None: by a thread event.
    """

    def __init__(
        self,
        fleet: FleetRun,
        run: str,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        self._fleet, self._run = fleet, run
        self._observer: Observer = observer or _Silent()
        self._clock = clock
        self._closed = threading.Event()
        self._pause = pause or self._closed.wait
        self._lock = threading.RLock()
        self._storing = threading.Lock()
        self._stored: set[str] = set()  # keys of files that are in the bucket
        self._queue = MessageQueue()
        self._open: dict[int, _OpenRound] = {}
        self._letters: dict[str, Letter] = {}  # whose outcome was not collected, by id
        self._failures: dict[str, Failure] = {}  # known outcomes without a reply, by id
        self._next = fleet.run(run).round + 1
        self._adoptable: dict[tuple[str, str, str, str], deque[int]] = defaultdict(deque)
        self._wait = _FIRST_PAUSE
        self._offer_at = 0.0
        self._failed: FedgrassError | None = None

    @property
    def last_number(self) -> int:
        """The number of the run's latest round."""
        return self._next - 1

    @property
    def failure(self) -> FedgrassError | None:
        """Why the run takes no more messages; None while it does."""
        return self._failed

    def devices(self) -> list[str]:
        """Return the thing names of the devices to which messages may be sent."""
        self._check()
        return self._fleet.message_devices(self._run)

    def store(self, parts: Sequence[MessagePart]) -> StoredContent:
        """Put the files of a content into the bucket, except for those that are there.

        Raises:
            UpdateRefused: a value of a record cannot be sent.
        """
        return store_content(parts, self.store_file)

    def store_file(self, file: FileInPieces) -> None:
        """Put a file of content into the bucket, unless it is there."""
        key = object_keys.content(self._run, file.sha256)
        with self._storing:
            if key in self._stored:
                return
            if not self._fleet.bucket.exists(key):
                self._fleet.bucket.write_pieces(key, file.pieces)
                self._observer.stored(file.bytes)
            self._stored.add(key)

    def push(  # noqa: PLR0913 - the fields of a message
        self,
        device: str,
        content: StoredContent,
        *,
        type: str,  # noqa: A002 - as Flower calls it
        group: str,
        ttl: float,
        created_at: float,
    ) -> str:
        """Add a message to those that ``flush`` sends; return its id."""
        letter = Letter(
            id=str(uuid4()),
            device=device,
            type=type,
            group=group,
            ttl=min(ttl, _LONGEST_TTL),
            created_at=created_at,
            content=content,
        )
        self._letters[letter.id] = letter
        self._queue.add(letter)
        return letter.id

    def flush(self) -> None:
        """Send the messages that wait, as far as their devices are free.

        Messages that other threads push meanwhile are sent together, in the next round.

        Raises:
            ExchangeFailed: the run takes no more messages.
            ExchangeClosed: the exchange was closed.
        """
        with self._lock:
            self._check()
            self._send_waiting()

    def collect(self, ids: Collection[str]) -> Iterator[tuple[str, Outcome]]:
        """Yield the outcomes that are known by now of some messages; each is yielded once.

        A reply is read when it is yielded. What is sent meanwhile, see ``flush``, also the errors.
        """
        with self._lock:
            self._check()
            before = self._progress()
            self._look()
            self._send_waiting()
            if self._progress() != before:
                self._wait = _FIRST_PAUSE
            for number, open_round in list(self._open.items()):
                for device in [each for each in open_round.replied if open_round.letters[each].id in ids]:
                    part, row = open_round.replied.pop(device), open_round.row
                    letter = open_round.letters.pop(device)
                    if row is None:
                        continue
                    outcome = read_reply(self._fleet.bucket, row, part)
                    self._letters.pop(letter.id, None)
                    self._observer.collected(number, device, outcome)
                    yield letter.id, outcome
            for id_ in [each for each in ids if each in self._failures]:
                self._letters.pop(id_, None)
                yield id_, self._failures.pop(id_)
            self._forget_ended()

    def knows(self, id_: str) -> bool:
        """Return whether the outcome of a message is still to be collected."""
        return id_ in self._letters

    def wait(self, longest: float = _LONGEST_PAUSE) -> None:
        """Wait until it is time for another look; longer each time, until something has changed.

        Raises:
            ExchangeClosed: the exchange was closed.
        """
        pause = min(self._wait, longest)
        self._wait = min(self._wait * _GROWTH, _LONGEST_PAUSE)
        if self._pause(max(0.0, pause)):
            self._check()

    def close(self) -> None:
        """Let every call of this and other threads raise ExchangeClosed."""
        self._closed.set()

    def adopt(self, numbers: Iterable[int]) -> None:
        """Let messages of an earlier process be adopted instead of sent again.

        A pushed message that equals one of those rounds (device, type, group and content) gets its reply. A
        list that was written, but not sent, is sent.

        Args:
            numbers: of the rounds whose replies no ServerApp has counted.

        Raises:
            ExchangeFailed: the list of a round is damaged, or the run takes no more messages.
        """
        with self._lock:
            for number in numbers:
                self._adopt_round(number)
            if (unsent := self._listed(self._next)) is not None:
                self._offer(unsent)
                self._adopt_round(self._next - 1)

    def _adopt_round(self, number: int) -> None:
        listed = self._listed(number)
        for group in listed.groups if listed else ():
            for device in group.devices:
                same = (device, group.header.type, group.header.group, group.sha256)
                self._adoptable[same].append(number)

    def _listed(self, number: int) -> RoundMessages | None:
        """Return the list of the messages of a round; None if there is none."""
        try:
            return decode_messages(
                self._fleet.bucket.read(object_keys.messages(self._run, number), LARGEST_LIST)
            )
        except KeyError:
            return None

    def _check(self) -> None:
        if self._failed:
            raise self._failed
        if self._closed.is_set():
            message = "the messages of the run were interrupted"
            raise ExchangeClosed(message)

    def _progress(self) -> tuple[int, ...]:
        rows = [open_round.row for open_round in self._open.values()]
        return (len(self._open), len(self._queue), *(_counted(row) + row.accepted for row in rows if row))

    # Sending

    def _send_waiting(self) -> None:
        now = self._clock()
        for letter in self._queue.take_expired(now):
            self._fail(
                letter, Failure("expired", f"its time to live of {letter.ttl:g} s ended before it was sent")
            )
        if not len(self._queue) or now < self._offer_at:
            return
        occupied = {device for open_round in self._open.values() for device in open_round.letters}
        ready = [letter for letter in self._queue.take(occupied, now) if not self._adopted(letter)]
        if not ready:
            return
        if len(self._open) >= MOST_OPEN:
            self._hold(ready, f"{TOO_MANY_OPEN}: {len(self._open)}")
            return
        try:
            self._offer(_listing(ready, now))
        except _NotNow as error:
            self._hold(ready, str(error))
            return
        except FedgrassError as error:
            self._failed = error
            raise
        self._opened(self._next - 1, ready, adopted=False)

    def _offer(self, listed: RoundMessages) -> None:
        """Open the next round for a list of messages.

        Raises:
            ExchangeFailed: the number is taken, or the run has ended.
            _NotNow: the run is paused, or has too many open rounds.
        """
        number, data = self._next, encode_messages(listed)
        if self._fleet.bucket.write_once(object_keys.messages(self._run, number), data) != data:
            raise ExchangeFailed(_taken(self._run, number))
        try:
            self._fleet.send_messages(self._run, number, sha256(data))
        except SettingsError as error:
            self._explain(number, error)
        self._next += 1

    def _explain(self, number: int, refusal: SettingsError) -> None:
        """Raise what a refusal of a round means."""
        run = self._fleet.run(self._run)
        if run.state is RunState.PAUSED or TOO_MANY_OPEN in str(refusal):
            raise _NotNow(str(refusal)) from refusal
        if run.state not in LIVING:
            message = f"run {run.name!r} is {run.state}{f' ({run.reason})' if run.reason else ''}"
            raise ExchangeFailed(message) from refusal
        if run.round >= number:
            raise ExchangeFailed(_taken(self._run, number)) from refusal
        raise ExchangeFailed(str(refusal)) from refusal

    def _hold(self, letters: Sequence[Letter], reason: str) -> None:
        self._offer_at = self._clock() + _REFUSED_PAUSE
        for letter in reversed(letters):
            self._queue.put_back(letter)
        self._observer.held_up(reason)

    def _adopted(self, letter: Letter) -> bool:
        """Return whether the message was sent by an earlier process, whose round it joins then."""
        numbers = self._adoptable.get(letter.same_as)
        if not numbers:
            return False
        self._opened(numbers.popleft(), [letter], adopted=True)
        return True

    def _opened(self, number: int, letters: Sequence[Letter], *, adopted: bool) -> None:
        open_round = self._open.setdefault(number, _OpenRound(number))
        open_round.counted = -1
        open_round.letters |= {letter.device: letter for letter in letters}
        self._wait = _FIRST_PAUSE
        self._observer.sent(number, letters, adopted=adopted)

    # Looking

    def _look(self) -> None:
        """Read the open rounds, and sort their devices into those that replied, failed or are outstanding."""
        for open_round in self._open.values():
            row = self._fleet.round(self._run, open_round.number)
            if row is None:
                self._look_for_lost(open_round)
                continue
            open_round.row = row
            self._observer.seen(row)
            if self._is_worth_reading(open_round, row):
                self._read_participants(open_round, row)

    def _is_worth_reading(self, open_round: _OpenRound, row: Round) -> bool:
        """Return whether a participant may have changed, and the last read of them is some time ago."""
        if row.state in ENDED:
            return bool(open_round.letters.keys() - open_round.replied.keys())
        rested = self._clock() - open_round.read_at >= _PARTICIPANTS_SHARE * open_round.read_seconds
        return rested and _counted(row) != open_round.counted

    def _read_participants(self, open_round: _OpenRound, row: Round) -> None:
        began = self._clock()
        parts = {part.device: part for part in self._fleet.participants(row)}
        open_round.read_at = self._clock()
        open_round.read_seconds = open_round.read_at - began
        open_round.counted = _counted(row)
        for device, letter in list(open_round.letters.items()):
            part = parts.get(device)
            if part and part.state is Participation.REPLIED:
                open_round.replied[device] = part
            elif failure := failure_of(row, part):
                del open_round.letters[device]
                self._end(open_round.number, letter, failure)
            elif self._clock() > letter.expires_at + _GRACE:
                del open_round.letters[device]
                reason = f"its time to live of {letter.ttl:g} s has ended, and its round has not"
                self._end(open_round.number, letter, Failure("expired", reason))

    def _end(self, number: int, letter: Letter, failure: Failure) -> None:
        """Keep the failure of a message that was sent, or send it again later if its device was busy."""
        busy = failure.kind == "declined" and failure.reason.startswith(BUSY)
        if busy and letter.postpone(self._clock()):
            self._queue.put_back(letter)
            self._observer.postponed(letter.device, failure.reason)
            return
        self._observer.collected(number, letter.device, failure)
        self._fail(letter, failure)

    def _look_for_lost(self, open_round: _OpenRound) -> None:
        """Fail the messages of a round without a row, once their time is over: `fedgrass repair` may restore it."""
        for device, letter in list(open_round.letters.items()):
            if self._clock() > letter.expires_at + _GRACE:
                del open_round.letters[device]
                reason = f"the row of round {open_round.number} is lost"
                self._end(open_round.number, letter, Failure("unknown", reason))

    def _fail(self, letter: Letter, failure: Failure) -> None:
        self._failures[letter.id] = failure

    def _forget_ended(self) -> None:
        for number in [number for number, each in self._open.items() if not each.letters]:
            del self._open[number]


class _NotNow(FedgrassError):
    """The run takes no messages at the moment."""


def _counted(row: Round) -> int:
    """Return the number of final messages that a round has counted."""
    return row.replied + row.refused + row.gone + row.late


def _listing(letters: Sequence[Letter], now: float) -> RoundMessages:
    """Return the list of a round's messages; equal messages share a group."""
    groups: dict[tuple[str, str, int, str], list[Letter]] = {}
    for letter in letters:
        left = max(1, round(letter.expires_at - now))  # in whole seconds, so that equal messages meet
        groups.setdefault((letter.type, letter.group, left, letter.content.sha256), []).append(letter)
    return RoundMessages(
        groups=tuple(
            MessageGroup(
                header=MessageHeader(type=type_, group=group, ttl=float(left), created_at=round(now, 3)),
                sha256=content,
                bytes=members[0].content.bytes,
                holds=members[0].content.holds,
                devices=tuple(letter.device for letter in members),
            )
            for (type_, group, left, content), members in groups.items()
        )
    )


def _taken(run: str, number: int) -> str:
    return (
        f"number {number} of run {run!r} is taken: another ServerApp drives this run at the same time; stop one"
        " of them, or give yours a run of its own (--name)"
    )
