"""Kills the process of a function or of a ServerApp at a named step."""

import random
import threading
from collections import deque
from itertools import islice
from typing import Literal

import psutil

from tests.chaos.faults import Faults
from tests.chaos.steps import STEPS

# Before a step's request is served, after it, between two requests of one step, or before a request that then
# arrives so late that others have taken the step: only its condition and its fence can reject it.
When = Literal["before", "after", "between", "late"]
Kill = tuple[str, When]
SERVER_APP = "fedgrass.console.main"  # the module of a ServerApp's process
CHOICES = 6  # the next kills in the sequence, of which the one whose step comes first happens


class Kills:
    """Kills in a shuffled sequence over all steps of each function; at most one per function is due.

    The first kill of the sequence alternately waits for its step alone, so that late steps are reached, and
    together with the next few, so that rare steps are reached.
    """

    def __init__(self, faults: Faults, name: str) -> None:
        self._faults = faults
        self._lock = threading.Lock()
        self._due: dict[str, int] = {}  # by function: the number of its next kills that are due together
        self._choices = dict.fromkeys(STEPS, CHOICES)
        self._first_passed: set[tuple[str, Kill]] = set()
        self._turns = {
            function: deque(_all_kills(function, faults.dice(f"kills of {function} in {name}")))
            for function in STEPS
        }

    def arm(self, function: str) -> None:
        """Let a kill happen at its step; one that waited alone without success moves to the end."""
        with self._lock:
            if self._due.get(function) == 1:
                self._turns[function].rotate(-1)
            self._choices[function] = CHOICES if self._choices[function] == 1 else 1
            self._due[function] = self._choices[function]

    def for_step(self, function: str, step: str) -> When | None:
        """Return the moment of the kill that is due in this request, or None; a kill happens once."""
        with self._lock:
            if function not in self._due or not self._faults.active:
                return None
            turns = self._turns[function]
            kill = next((kill for kill in islice(turns, self._due[function]) if kill[0] == step), None)
            if kill is None:
                return None
            if kill[1] == "between" and (function, kill) not in self._first_passed:
                self._first_passed.add((function, kill))
                return None
            self._first_passed.discard((function, kill))
            del self._due[function]
            turns.remove(kill)
            turns.append(kill)
            return kill[1]

    def strike(self, function: str, moment: str, port: int) -> None:
        """Kill the function's process whose connection comes from ``port``; count it by its moment."""
        process = _holder(port)
        if process is None:
            return  # its function has timed out at this moment
        process.kill()
        self._faults.count(f"{function}_killed", moment)


def _all_kills(function: str, dice: random.Random) -> list[Kill]:
    moments: tuple[When, ...] = ("before", "after")
    kills: list[Kill] = [(step, when) for step in STEPS[function] for when in moments]
    kills += [
        (step, "between") for step in ("announcement", "update_read", "shard_read", "shard_handed_over")
    ]
    kills += [
        (step, "late")
        for step in (
            "reply_counted",
            "group_begun",
            "group_noted",
            "lease_taken",
            "shard_noted",
            "shards_taken",
            "model_drafted",
            "round_closed",
            "model_written",
        )
    ]
    kills = [kill for kill in kills if kill[0] in STEPS[function]]
    dice.shuffle(kills)
    return kills


def _holder(port: int) -> psutil.Process | None:
    """Return the function's process whose connection comes from ``port``."""
    for process in psutil.Process().children(recursive=True):
        try:
            words = process.cmdline()
            is_function = words[-1:] and words[-1].endswith("_worker.py")
            if not is_function and SERVER_APP not in words:
                continue
            if any(c.laddr and c.laddr.port == port for c in process.net_connections("tcp4")):
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return None
