"""All that the dashboard knows of one stack, shared by the topics, the reads and the page."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from fedgrass.console.dashboard.fleet_cells import RoundCells
from fedgrass.console.dashboard.fleet_devices import DeviceBook
from fedgrass.console.dashboard.fleet_runs import KnownRun
from fedgrass.console.dashboard.fleet_views import ConnectionLine
from fedgrass.console.topic_feed.topic_subscription import Link, Received
from fedgrass.federation import messages, topics
from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages import Announcement, Completion, RoundChange, Status, Verdict
from fedgrass.federation.rounds import Participant
from fedgrass.federation.topics import Kind

Waiting = TypeVar("Waiting")
KINDS = (Kind.ANNOUNCE, Kind.STATUS, Kind.COMPLETE, Kind.HELLO)


def subscribed_topics(fleet: str) -> list[str]:
    """Return the topic filters of the messages that ``FleetBook.receive`` processes."""
    root = f"{topics.ROOT}/{fleet}"
    return [f"{root}/rounds/+", *(f"{root}/clients/+/{kind}" for kind in KINDS)]


class FleetBook:
    """Runs, rounds, cells and devices of one stack.

    ``lock`` guards all of it: code that reads or changes more than one value holds it. ``version`` grows with
    each change that the page can see.

    Args:
        heartbeat_seconds: interval of the devices' heartbeats.
        clock: returns the seconds since the epoch.
    """

    def __init__(self, heartbeat_seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.lock = threading.RLock()
        self.version = 0
        self.runs: dict[str, KnownRun] = {}
        self.watched: Counter[str] = Counter()  # runs that pages show, with how many do
        self.cells: dict[str, RoundCells] = {}  # of each run's latest round
        self.devices = DeviceBook(heartbeat_seconds)
        self.unreadable = 0  # messages
        self.api = ConnectionLine(since_at=self.now())
        self.topics = ConnectionLine(since_at=self.now())
        # What messages ask to be read: attempts at rounds, and devices.
        self.changed_rounds: dict[tuple[str, int, int], None] = {}
        self.new_devices: dict[str, None] = {}

    def now(self) -> int:
        """Return the time in milliseconds since the epoch."""
        return round(self._clock() * 1000)

    def changed(self) -> None:
        """Note that the page has something new to show."""
        self.version += 1

    def set_connection(self, which: str, link: Link, error: str = "") -> bool:
        """Set the state of ``api`` or ``topics``; return whether it was lost and has come back."""
        with self.lock:
            before: ConnectionLine = getattr(self, which)
            if (before.state, before.error) == (link, error):
                return False
            since = before.since_at if before.state == link else self.now()
            setattr(self, which, ConnectionLine(state=str(link), since_at=since, error=error))
            self.changed()
            return before.state == Link.RECONNECTING and link is Link.CONNECTED

    def watch(self, run: str) -> None:
        """Keep a run up to date although it has ended, until ``unwatch`` was called once per call."""
        with self.lock:
            self.watched[run] += 1
            if run in self.runs:
                self.runs[run].read_at = 0.0

    def unwatch(self, run: str) -> None:
        """End one call of ``watch``."""
        with self.lock:
            self.watched[run] -= 1
            if self.watched[run] <= 0:
                del self.watched[run]

    def known_run(self, name: str, state: str) -> KnownRun:
        """Return a run, as one of which nothing was read if it is new."""
        if name not in self.runs:
            self.runs[name] = KnownRun(name, state)
            self.changed()
        return self.runs[name]

    @property
    def followed(self) -> list[KnownRun]:
        """The runs to keep up to date: active ones, and those that pages show."""
        return [known for known in self.runs.values() if known.is_living or known.name in self.watched]

    @property
    def has_open_round(self) -> bool:
        """Whether a round of any run is open, as far as is known."""
        return any(known.has_open_round for known in self.runs.values())

    def cells_of(self, run: str, number: int, attempt: int) -> RoundCells | None:
        """Return the cells of an attempt at a round, new ones if it is the latest; None if it is older."""
        cells = self.cells.get(run)
        if cells is None or (number, attempt) > (cells.number, cells.attempt):
            cells = self.cells[run] = RoundCells(number, attempt)
            self.changed()
        return cells if cells.is_of(number, attempt) else None

    def drop_cells(self) -> None:
        """Drop the cells of runs that have ended and that no page shows."""
        kept = {known.name for known in self.followed}
        for name in [name for name in self.cells if name in self.runs and name not in kept]:
            del self.cells[name]

    def keep_participants(self, cells: RoundCells, parts: list[Participant]) -> None:
        """Keep rows of the devices of a round."""
        at, known = self.now(), len(cells)
        moved = [cells.read(part, at) for part in parts]
        if any(moved) or len(cells) > known:
            self.changed()

    def receive(self, received: list[Received]) -> None:
        """Process messages of ``subscribed_topics``; those that are not valid are counted."""
        with self.lock:
            moved = False
            for one in received:
                try:
                    moved |= self._process(one)
                except MessageError:
                    self.unreadable += 1
                    moved = True
            if moved:
                self.changed()

    def _process(self, one: Received) -> bool:
        """Process a message; return whether a cell moved."""
        levels = one.topic.split("/")
        if len(levels) == 4 and levels[2] == "rounds":  # noqa: PLR2004 - fedgrass/<fleet>/rounds/<run>
            change = messages.decode(one.payload, RoundChange)
            self.changed_rounds[change.run, change.round, change.attempt] = None
            return False
        device, kind = topics.parse_device_topic(one.topic)
        if kind is Kind.ANNOUNCE:
            message: object = messages.decode_announce(one.payload)
        else:
            self.devices.heard(device, one.at)
            if kind is Kind.HELLO:
                self.new_devices[device] = None
                return False
            message = messages.decode(one.payload, Status if kind is Kind.STATUS else Completion)
        if not isinstance(message, Announcement | Verdict | Status | Completion):
            return False  # such as a request for log lines
        known = self.cells.get(message.run)
        if known is None or not known.is_of(message.round, message.attempt):
            if kind is not Kind.ANNOUNCE:
                return False  # of an older round, or of one whose rows are about to be read
            self.changed_rounds[message.run, message.round, message.attempt] = None
        cells = self.cells_of(message.run, message.round, message.attempt)
        return cells is not None and cells.receive(device, message, one.at)

    def next_hint(self) -> tuple[str, int, int] | None:
        """Remove and return an attempt at a round that a message named, the one named first."""
        return _take_first(self.changed_rounds)

    def next_new_device(self) -> str | None:
        """Remove and return a device that has sent a hello."""
        return _take_first(self.new_devices)


def _take_first(waiting: dict[Waiting, None]) -> Waiting | None:
    for first in waiting:
        del waiting[first]
        return first
    return None
