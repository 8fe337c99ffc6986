"""A queue with the semantics of SQS: at-least-once delivery, retries, a dead-letter queue."""

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from fedgrass.local.in_memory.virtual_clock import VirtualClock

Body = Mapping[str, Any]


class Letter(Struct, frozen=True):
    """A message whose every try failed, and the reasons."""

    body: Body
    reasons: tuple[str, ...]


class Queue:
    """Delivers messages to ``take``, which returns why it failed, or None.

    Args:
        clock: the simulation's clock.
        dice: draws the messages that are delivered twice.
        take: processes a message.
    """

    VISIBILITY, MOST_TRIES = 90, 10

    def __init__(self, clock: VirtualClock, dice: random.Random, take: Callable[[Body], str | None]) -> None:
        self.letters: list[Letter] = []  # that were not sent back
        self.all_letters: list[Letter] = []
        self.twice = 0.0  # the probability that a message is delivered again, soon or hours later
        self._clock = clock
        self._dice = dice
        self._take = take

    def send(self, body: Body, seconds: float = 0.0) -> None:
        """Send a message that arrives after some seconds."""
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
