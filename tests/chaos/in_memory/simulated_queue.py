"""A queue as SQS is: messages come at least once, failed ones come back, and end as dead letters."""

import heapq
import itertools
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

Body = Mapping[str, Any]


class Letter(Struct, frozen=True):
    """A message that nobody could deal with: it, and why each try failed."""

    body: Body
    reasons: tuple[str, ...]


class Clockwork:
    """What is to happen at its time, and the time."""

    def __init__(self, now: int) -> None:
        self.now = now
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Have something happen after a while."""
        heapq.heappush(self._due, (self.now + round(seconds * 1000), next(self._numbers), act))

    def run_until(self, until: int, most: int) -> int:
        """Let happen what is due, at most so many things; return how many happened."""
        done = 0
        while self._due and self._due[0][0] <= until and done < most:
            at, _, act = heapq.heappop(self._due)
            self.now = max(self.now, at)
            act()
            done += 1
        if done < most:
            self.now = max(self.now, until)
        return done


class Queue:
    """Delivers messages to ``take``, which returns why it failed, or None.

    Args:
        clock: when what happens.
        dice: draws what comes twice.
        take: takes a message.
    """

    VISIBILITY, MOST_TRIES = 90, 10

    def __init__(self, clock: Clockwork, dice: random.Random, take: Callable[[Body], str | None]) -> None:
        self.letters: list[Letter] = []  # that nobody has sent back
        self.all_letters: list[Letter] = []
        self.twice = 0.0  # the chance that a message comes again, soon or hours later
        self._clock = clock
        self._dice = dice
        self._take = take

    def send(self, body: Body, seconds: float = 0.0) -> None:
        """Send a message that arrives after a while."""
        text = json.dumps(body)
        self._clock.after(seconds, lambda: self._deliver(text, ()))

    def _deliver(self, text: str, failures: tuple[str, ...]) -> None:
        body = json.loads(text)
        failure = self._take(body)
        if failure is None:
            if self.twice and self._dice.random() < self.twice:
                again = self._dice.choice([1, 30, 400, 4 * 3600])
                self._clock.after(again, lambda: self._deliver(text, ()))
            return
        failures = (*failures, failure)
        if len(failures) >= self.MOST_TRIES:
            self.letters.append(Letter(body, failures))
            self.all_letters.append(self.letters[-1])
            return
        self._clock.after(self.VISIBILITY, lambda: self._deliver(text, failures))

    def redrive(self) -> None:
        """Send the dead letters back."""
        letters, self.letters = self.letters, []
        for letter in letters:
            self.send(letter.body)
