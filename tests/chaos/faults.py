"""Which faults happen, drawn by a seed, and how often each kind did."""

import random
import threading
from collections import Counter


class Faults:
    """Gives every place its own dice and counts what went wrong. Safe in threads.

    A place draws the same faults in the same order for the same seed; what they hit differs from run to run
    as far as the machine's timing does.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._calm = threading.Event()
        self._stopped = threading.Event()

    def dice(self, place: str) -> random.Random:
        """Return the dice of one place."""
        return random.Random(f"{self.seed}:{place}")  # noqa: S311  # repeatable, no secret

    @property
    def active(self) -> bool:
        """Whether faults are still to happen."""
        return not self._calm.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until the faults end; return whether they go on."""
        return not self._calm.wait(seconds)

    def end(self) -> None:
        """Let nothing go wrong from now on."""
        self._calm.set()

    @property
    def stopped(self) -> bool:
        """Whether everything is to end, finished or not."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """End the faults, and the campaign with them."""
        self._calm.set()
        self._stopped.set()

    def count(self, kind: str, detail: str = "") -> None:
        """Note a fault that has happened."""
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
        """Return how often each variety of one kind happened."""
        with self._lock:
            return dict(sorted((what, n) for (found, what), n in self._counts.items() if found == kind))
