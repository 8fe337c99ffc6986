"""A queue with the semantics of SQS: at-least-once delivery, retries, a dead-letter queue."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from fedgrass.local.in_memory.virtual_clock import VirtualClock

Body = Mapping[str, Any]
Take = Callable[[Sequence[Body]], Sequence[str | None]]


class Letter(Struct, frozen=True):
    """A message whose every try failed, and the reasons."""

    body: Body
    reasons: tuple[str, ...]


class Queue:
    """Delivers messages to ``take`` in batches; it returns for each why it failed, or None.

    Args:
        clock: the simulation's clock.
        dice: draws the messages that are delivered twice.
        take: processes a batch of messages.
    """

    VISIBILITY, MOST_TRIES, MOST_IN_BATCH = 90, 10, 10

    def __init__(self, clock: VirtualClock, dice: random.Random, take: Take) -> None:
        self.letters: list[Letter] = []  # that were not sent back
        self.all_letters: list[Letter] = []
        self.twice = 0.0  # the probability that a message is delivered again, soon or hours later
        self._clock = clock
        self._dice = dice
        self._take = take
        self._waiting: list[tuple[str, tuple[str, ...]]] = []  # for a worker, with their failures so far

    def send(self, body: Body, seconds: float = 0.0) -> None:
        """Send a message that arrives after some seconds."""
        text = json.dumps(body)
        self._clock.after(seconds, lambda: self._deliver(text, ()))

    def _deliver(self, text: str, failures: tuple[str, ...]) -> None:
        """Deliver a message, at once or in a batch with those of the next seconds."""
        self._waiting.append((text, failures))
        if len(self._waiting) == 1:
            self._clock.after(self._dice.choice([0, 0, 1, 5]), self._deliver_batch)

    def _deliver_batch(self) -> None:
        batch, self._waiting = self._waiting[: self.MOST_IN_BATCH], self._waiting[self.MOST_IN_BATCH :]
        if self._waiting:
            self._clock.after(0, self._deliver_batch)
        results = self._take([json.loads(text) for text, _ in batch])
        for (text, failures), failure in zip(batch, results, strict=True):
            self._settle(text, failures, failure)

    def _settle(self, text: str, failures: tuple[str, ...], failure: str | None) -> None:
        """Delete a message that was processed, or have it delivered again."""
        body = json.loads(text)
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
