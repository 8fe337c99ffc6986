"""Draws faults from a seed, and counts how often each kind happened."""

import random
import threading
from collections import Counter


class Faults:
    """Gives each place separate random numbers and counts the faults. Thread-safe.

    For the same seed a place draws the same faults in the same order; what they hit depends on timing.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._calm = threading.Event()
        self._stopped = threading.Event()

    def dice(self, place: str) -> random.Random:
        """Return the random numbers of one place."""
        return random.Random(f"{self.seed}:{place}")  # noqa: S311 - repeatable, not a secret

    @property
    def active(self) -> bool:
        """Whether faults are still injected."""
        return not self._calm.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for some seconds, or until the faults end; return whether they continue."""
        return not self._calm.wait(seconds)

    def end(self) -> None:
        """Inject no more faults."""
        self._calm.set()

    @property
    def stopped(self) -> bool:
        """Whether the campaign has to stop, finished or not."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """End the faults, and the campaign with them."""
        self._calm.set()
        self._stopped.set()

    def count(self, kind: str, detail: str = "") -> None:
        """Count a fault."""
        with self._lock:
            self._counts[kind, detail] += 1

    def by_kind(self) -> dict[str, int]:
        """Return how often each kind of fault happened."""
        totals: Counter[str] = Counter()
        with self._lock:
            for (kind, _), count in self._counts.items():
                totals[kind] += count
        return dict(sorted(totals.items()))

    def details(self, kind: str) -> dict[str, int]:
        """Return how often each variant of one kind happened."""
        with self._lock:
            return dict(sorted((what, n) for (found, what), n in self._counts.items() if found == kind))
