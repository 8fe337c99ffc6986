"""Ports of the cloud whose calls go wrong: the worker dies at one, the answer gets lost, a read is stale."""

import random
import threading
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from tests.fakes.memory_cloud import Crash

READS = frozenset(
    {"run", "round", "participant", "living", "runs"}
)  # of the rounds table; each has older answers
WRITES = frozenset(
    {
        "create_run",
        "change_run",
        "ask",
        "open_round",
        "replace",
        "mark_announced",
        "move",
        "count_reply",
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
    """An error of AWS, made for the occasion."""


class Chances(Struct, frozen=True):
    """How often a call goes wrong, by how."""

    killed_before: float = 0.0
    killed_after: float = 0.0
    error: float = 0.0
    answer_lost: float = 0.0  # the write was made, and the SDK makes it again
    answer_late: float = 0.0  # the write was made, and the caller gets an error
    stale: float = 0.0
    stalled: float = 0.0  # the worker sleeps, on its lease too, while others go on
    object_lost: float = 0.0  # of what was just written, before anybody reads it


CALM = Chances()


class Disturber:
    """Decides at each call what goes wrong with it; of one worker, and in the order of its calls.

    Args:
        dice: draws.
        stall: lets others go on for a while.
        lose: loses an object of the bucket.
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
        """Make a call, or spoil it."""
        # What the readers' threads call comes in no certain order: the same seed would not do the same.
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
        """Forget older answers: what was read from a table that is gone is not read again."""
        self._answers.clear()

    def _read(self, name: str, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return what a read returns, or what it returned the last time."""
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
        if not callable(attribute) or name == "create":  # a writer's calls are its own
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._disturber.call(name, attribute, args, kwargs)

        return call
