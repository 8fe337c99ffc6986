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
from uuid import uuid4

from fedgrass.console.task_messages.content_files import (
    FileInPieces,
    MessagePart,
    StoredContent,
    store_content,
)
from fedgrass.console.task_messages.exchange_ports import (
    ExchangeClosed,
    ExchangeFailed,
    FleetRun,
    Observer,
    SilentObserver,
)
from fedgrass.console.task_messages.message_outcomes import Failure, Outcome
from fedgrass.console.task_messages.message_queue import Letter, MessageQueue
from fedgrass.console.task_messages.open_rounds import OpenRounds
from fedgrass.federation import object_keys
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.messages import MessageHeader
from fedgrass.federation.runs import LIVING, RunState
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
_REFUSED_PAUSE = 2.0  # seconds until messages are offered again to a run that is paused or has too many
_LONGEST_TTL = 366 * 24 * 3600.0  # seconds
_SMALL = 64 * 1024  # bytes: it takes longer to ask for a smaller file than to send it


class MessageExchange:
    """The messages of one run, between this process and the devices.

    Args:
        fleet: the operator's access to the fleet.
        run: name of the run, with ``mode: server_app``.
        observer: receives what happens; may be None.
        clock: returns the seconds since the epoch.
        pause: waits for a number of seconds; returns whether the exchange was closed. None: by ``closed``.
        closed: is set when the exchange is closed.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it works with
        self,
        fleet: FleetRun,
        run: str,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], bool] | None = None,
        closed: threading.Event | None = None,
    ) -> None:
        self._fleet, self._run = fleet, run
        self._observer: Observer = observer or SilentObserver()
        self._clock = clock
        self._closed = closed or threading.Event()
        self._pause = pause or self._closed.wait
        self._lock = threading.RLock()
        self._storing = threading.Lock()
        self._stored: set[str] = set()  # keys of files that are in the bucket
        self._queue = MessageQueue()
        self._open = OpenRounds(fleet, run, self._observer, clock, self._end)
        self._letters: dict[str, Letter] = {}  # whose outcome was not collected, by id
        self._failures: dict[str, Failure] = {}  # known outcomes without a reply, by id
        self._next = fleet.run(run).round + 1
        self._adoptable: dict[tuple[str, str, str, str], deque[int]] = defaultdict(deque)
        self._wait = _FIRST_PAUSE
        # A list whose number was refused for now: it is in the bucket, and no other can take its place.
        self._refused: tuple[RoundMessages, list[Letter]] | None = None
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
            if file.bytes < _SMALL or not self._fleet.bucket.exists(key):
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

    def flush(self, gather: float = 0.0) -> None:
        """Send the messages that wait, as far as their devices are free.

        Messages that other threads push at the same time are sent together, in the next round.

        Args:
            gather: seconds to wait before for messages of other threads.

        Raises:
            ExchangeFailed: the run takes no more messages.
            ExchangeClosed: the exchange was closed.
        """
        if gather:
            self._pause(gather)
        with self._lock:
            self._check()
            self._send_waiting()

    def collect(self, ids: Collection[str]) -> Iterator[tuple[str, Outcome]]:
        """Yield the outcomes that are known by now of some messages; each is yielded once.

        A reply is read when it is yielded. Waiting messages are sent as by ``flush``, with its errors.
        """
        with self._lock:
            self._check()
            before = self._progress()
            self._open.look()
            self._send_waiting()
            if self._progress() != before:
                self._wait = _FIRST_PAUSE
            for number, letter, outcome in self._open.replies(ids):
                del self._letters[letter.id]
                self._observer.collected(number, letter.device, outcome)
                yield letter.id, outcome
            for id_ in [each for each in ids if each in self._failures]:
                self._letters.pop(id_, None)
                yield id_, self._failures.pop(id_)
            self._open.forget_ended()

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
        self._pause(max(0.0, pause))
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
        return len(self._queue), *self._open.progress()

    def _send_waiting(self) -> None:
        now = self._clock()
        for letter in self._queue.take_expired(now):
            self._fail(
                letter, Failure("expired", f"its time to live of {letter.ttl:g} s ended before it was sent")
            )
        if now < self._offer_at or len(self._open) >= MOST_OPEN:
            return
        if not self._refused:
            taken = self._queue.take(self._open.devices(), now)
            ready = [letter for letter in taken if not self._adopted(letter)]
            if not ready:
                return
            self._refused = _listing(ready, now), ready
        listed, letters = self._refused
        try:
            self._offer(listed)
        except _NotNow as error:
            self._offer_at = now + _REFUSED_PAUSE
            self._observer.held_up(str(error))
            return
        except FedgrassError as error:
            self._failed = error
            raise
        self._refused = None
        self._opened(self._next - 1, letters, adopted=False)

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
        if f"is {RunState.PAUSED}" in str(refusal) or TOO_MANY_OPEN in str(refusal):
            raise _NotNow(str(refusal)) from refusal
        if run.state not in LIVING:
            message = f"run {run.name!r} is {run.state}{f' ({run.reason})' if run.reason else ''}"
            raise ExchangeFailed(message) from refusal
        if run.round >= number:
            raise ExchangeFailed(_taken(self._run, number)) from refusal
        raise ExchangeFailed(str(refusal)) from refusal

    def _adopted(self, letter: Letter) -> bool:
        """Return whether the message was sent by an earlier process, whose round it joins then."""
        numbers = self._adoptable.get(letter.same_as)
        if not numbers:
            return False
        self._opened(numbers.popleft(), [letter], adopted=True)
        return True

    def _opened(self, number: int, letters: Sequence[Letter], *, adopted: bool) -> None:
        self._open.add(number, letters)
        self._wait = _FIRST_PAUSE
        self._observer.sent(number, letters, adopted=adopted)

    def _end(self, number: int, letter: Letter, failure: Failure) -> None:
        """Keep the failure of a message that was sent, or send it again later if its device was busy."""
        busy = failure.kind == "declined" and failure.reason.startswith(BUSY)
        if busy and letter.postpone(self._clock()):
            self._queue.put_back(letter)
            self._observer.postponed(letter.device, failure.reason)
            return
        self._observer.collected(number, letter.device, failure)
        self._fail(letter, failure)

    def _fail(self, letter: Letter, failure: Failure) -> None:
        self._failures[letter.id] = failure


class _NotNow(FedgrassError):
    """The run takes no messages at the moment."""


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
        f"round {number} of run {run!r} is taken: another ServerApp drives this run at the same time; stop"
        " one of them, or give yours its own run (--name)"
    )
