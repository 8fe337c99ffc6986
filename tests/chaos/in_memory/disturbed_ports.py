"""Ports whose calls fail: the worker crashes, a response is lost, a read is stale."""

import random
import threading
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from tests.fakes.memory_cloud import Crash

READS = frozenset(
    {"run", "round", "round_with", "participant", "living", "runs"}
)  # of the rounds table; each can return an older result
WRITES = frozenset(
    {
        "create_run",
        "change_run",
        "ask",
        "open_round",
        "replace",
        "lease_announcement",
        "mark_announced",
        "move",
        "count_reply",
        "move_together",
        "move_participant",
        "refuse_update",
        "begin_group",
        "count_late",
        "settle",
        "write",
        "write_once",
        "write_over",
        "copy_once",
        "publish",
        "set",
        "cancel",
        "hand_over",
        "remind",
    }
)


class InjectedError(Exception):
    """An injected error of AWS."""


class Chances(Struct, frozen=True):
    """How often a call fails, by kind of failure."""

    killed_before: float = 0.0
    killed_after: float = 0.0
    error: float = 0.0
    answer_lost: float = 0.0  # the write was made, and the SDK retries it
    answer_late: float = 0.0  # the write was made, and the caller gets an error
    stale: float = 0.0
    stalled: float = 0.0  # the worker sleeps, possibly beyond its lease, while others continue
    object_lost: float = 0.0  # of an object that was just written, before it is read


CALM = Chances()


class Disturber:
    """Decides which calls of one worker fail, in the order of its calls.

    Args:
        dice: the random numbers.
        stall: lets other workers continue for some time.
        lose: deletes an object of the bucket.
    """

    def __init__(self, dice: random.Random, stall: Callable[[], None], lose: Callable[[], None]) -> None:
        self.chances = CALM
        self.happened: dict[str, int] = {}
        self._dice = dice
        self._stall = stall
        self._lose = lose
        self._thread = threading.get_ident()
        self._answers: dict[object, Any] = {}

    def call(self, name: str, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Make a call, or make it fail."""
        # The calls of reader threads have no fixed order: the same seed would not be reproducible.
        if self.chances is CALM or threading.get_ident() != self._thread:
            return method(*args, **kwargs)
        if self._happens("killed_before"):
            raise Crash
        if self._happens("error"):
            message = f"injected: {name} failed"
            raise InjectedError(message)
        if self._happens("stalled"):
            self._stall()
        if self._happens("object_lost"):
            self._lose()
        answer = self._read(name, method, args, kwargs) if name in READS else method(*args, **kwargs)
        if name in WRITES:
            if self._happens("answer_lost"):
                answer = method(*args, **kwargs)
            if self._happens("answer_late"):
                message = f"injected: the answer to {name} is lost"
                raise InjectedError(message)
        if self._happens("killed_after"):
            raise Crash
        return answer

    def forget(self) -> None:
        """Forget older results: those of a table that is gone are not returned again."""
        self._answers.clear()

    def _read(self, name: str, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return the result of a read, or the one that it returned the last time."""
        key = (name, *(getattr(arg, "number", arg) for arg in args))
        older = self._answers.get(key)
        answer = self._answers[key] = method(*args, **kwargs)
        return older if older is not None and self._happens("stale") else answer

    def _happens(self, what: str) -> bool:
        chance = getattr(self.chances, what)
        if not chance or self._dice.random() >= chance:
            return False
        self.happened[what] = self.happened.get(what, 0) + 1
        return True


class Disturbed:
    """A port whose calls go through a ``Disturber``."""

    def __init__(self, port: object, disturber: Disturber) -> None:
        self._port = port
        self._disturber = disturber

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._port, name)
        if not callable(attribute) or name == "create":  # the calls of a writer are separate
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._disturber.call(name, attribute, args, kwargs)

        return call
