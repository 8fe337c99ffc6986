"""Kills a function's process at a named step."""

import random
import threading
import time
from collections import deque
from typing import Literal

import psutil

from tests.chaos.faults import Faults
from tests.chaos.steps import STEPS

# Before a step's request is served, after it, between two requests of one step, or before the request arrives
# so late that others have taken the step meanwhile: then only its condition and its fence can keep it out.
When = Literal["before", "after", "between", "late"]
Kill = tuple[str, When]
PATIENCE = 8.0  # seconds after which a kill that found no step gives its turn to the next


class Kills:
    """One armed kill per function at most. Every step of a function comes in its turn, shuffled."""

    def __init__(self, faults: Faults, name: str) -> None:
        self._faults = faults
        self._lock = threading.Lock()
        self._armed: dict[str, Kill] = {}
        self._since: dict[str, float] = {}
        self._first_passed: set[str] = set()
        self._turns = {
            function: deque(_all_kills(function, faults.dice(f"kills of {function} in {name}")))
            for function in STEPS
        }

    def arm(self, function: str) -> None:
        """Let the next kill happen when its step comes; one that found none waits for its turn again."""
        with self._lock:
            turns = self._turns[function]
            if function in self._armed:
                if time.monotonic() - self._since[function] < PATIENCE:
                    return
                turns.append(self._armed.pop(function))
                self._first_passed.discard(function)
            self._since[function] = time.monotonic()
            self._armed[function] = turns.popleft()

    def for_step(self, function: str, step: str) -> When | None:
        """Return when the armed kill strikes in this request, None if it does not; it strikes once."""
        with self._lock:
            armed = self._armed.get(function)
            if armed is None or armed[0] != step or not self._faults.active:
                return None
            if armed[1] == "between" and function not in self._first_passed:
                self._first_passed.add(function)
                return None
            self._first_passed.discard(function)
            del self._armed[function]
            self._turns[function].append(armed)
            return armed[1]

    def strike(self, function: str, moment: str, port: int) -> None:
        """Kill the function's process whose connection comes from ``port``; count it by its moment."""
        process = _holder(port)
        if process is None:
            return  # its function's time ran out just now
        process.kill()
        self._faults.count(f"{function}_killed", moment)


def _all_kills(function: str, dice: random.Random) -> list[Kill]:
    moments: tuple[When, ...] = ("before", "after")
    kills: list[Kill] = [(step, when) for step in STEPS[function] for when in moments]
    kills += [(step, "between") for step in ("announcement", "update_read")]
    kills += [
        (step, "late")
        for step in ("lease_taken", "model_drafted", "round_closed", "model_written", "reply_counted")
    ]
    kills = [kill for kill in kills if kill[0] in STEPS[function]]
    dice.shuffle(kills)
    return kills


def _holder(port: int) -> psutil.Process | None:
    """Return the function's process whose connection comes from ``port``."""
    for process in psutil.Process().children(recursive=True):
        try:
            if not process.cmdline()[-1:] or not process.cmdline()[-1].endswith("_worker.py"):
                continue
            if any(c.laddr and c.laddr.port == port for c in process.net_connections("tcp4")):
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return None
