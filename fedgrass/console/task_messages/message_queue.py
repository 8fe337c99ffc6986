"""Which messages may be sent now: a device gets one at a time, in the order in which they were pushed."""

import threading
from collections import deque
from collections.abc import Collection

from fedgrass.console.task_messages.content_files import StoredContent

_FIRST_PAUSE = 1.0  # seconds after a device declined because it was busy; then longer
_LONGEST_PAUSE = 30.0
_GROWTH = 1.6


class Letter:
    """One message to one device, from its push to its outcome.

    Attributes:
        id: by which its outcome is collected.
        device: thing name.
        type: of the message, such as ``train``.
        group: of messages that belong together.
        ttl: seconds from ``created_at`` during which the message and its reply are of use.
        created_at: seconds since the epoch, by the clock of this process.
        content: its files in the bucket.
    """

    def __init__(  # noqa: PLR0913 - the fields of a message
        self,
        *,
        id: str,  # noqa: A002 - as Flower calls it
        device: str,
        type: str,  # noqa: A002 - as Flower calls it
        group: str,
        ttl: float,
        created_at: float,
        content: StoredContent,
    ) -> None:
        self.id, self.device, self.type, self.group = id, device, type, group
        self.ttl, self.created_at, self.content = ttl, created_at, content
        self.not_before = 0.0
        self._pause = _FIRST_PAUSE

    @property
    def expires_at(self) -> float:
        """When the message is of no more use, in seconds since the epoch."""
        return self.created_at + self.ttl

    @property
    def same_as(self) -> tuple[str, str, str, str]:
        """What makes two messages the same: their device, type, group and content."""
        return self.device, self.type, self.group, self.content.sha256

    def postpone(self, now: float) -> bool:
        """Put the message off, because its device is busy; return whether it may still be sent in time."""
        self.not_before = now + self._pause
        self._pause = min(self._pause * _GROWTH, _LONGEST_PAUSE)
        return self.not_before < self.expires_at


class MessageQueue:
    """The messages that wait. ``add`` may be called by any thread at any time."""

    def __init__(self) -> None:
        self._added: deque[Letter] = deque()
        self._waiting: list[Letter] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._added) + len(self._waiting)

    def add(self, letter: Letter) -> None:
        """Append a message."""
        self._added.append(letter)

    def put_back(self, letter: Letter) -> None:
        """Return a message that was taken before all others, so that it is the next one of its device."""
        with self._lock:
            self._waiting.insert(0, letter)

    def take(self, occupied: Collection[str], now: float) -> list[Letter]:
        """Remove and return the messages to send now: at most one for each device that is not occupied."""
        with self._lock:
            self._collect()
            ready, left, taken = list[Letter](), list[Letter](), set(occupied)
            for letter in self._waiting:
                if letter.device not in taken and letter.not_before <= now:
                    ready.append(letter)
                else:
                    left.append(letter)
                taken.add(letter.device)  # also if it waits: later messages of the device wait behind it
            self._waiting = left
            return ready

    def take_expired(self, now: float) -> list[Letter]:
        """Remove and return the messages whose time to live has passed."""
        with self._lock:
            self._collect()
            expired = [letter for letter in self._waiting if letter.expires_at <= now]
            self._waiting = [letter for letter in self._waiting if letter.expires_at > now]
            return expired

    def _collect(self) -> None:
        while self._added:
            self._waiting.append(self._added.popleft())
