"""A clock that jumps from one due action to the next, so that hours pass in a moment."""

import heapq
import itertools
from collections.abc import Callable


class VirtualClock:
    """The time in milliseconds since the epoch, and the actions that are due later.

    Args:
        now: the time at the start.
    """

    def __init__(self, now: int) -> None:
        self.now = now
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Schedule an action after some seconds."""
        heapq.heappush(self._due, (self.now + round(seconds * 1000), next(self._numbers), act))

    @property
    def next_at(self) -> int | None:
        """The time at which the next action is due; None if there is none."""
        return max(self.now, self._due[0][0]) if self._due else None

    def at(self, time: int, act: Callable[[], None]) -> None:
        """Schedule an action at a time; one in the past is due now."""
        heapq.heappush(self._due, (max(self.now, time), next(self._numbers), act))

    def step(self) -> bool:
        """Run the next action at the time at which it is due; return whether there was one."""
        if not self._due:
            return False
        at, _, act = heapq.heappop(self._due)
        self.now = max(self.now, at)
        act()
        return True

    def run_until(self, until: int, most: int) -> int:
        """Run the actions that are due, up to a maximum; return how many were run."""
        done = 0
        while self._due and self._due[0][0] <= until and done < most:
            at, _, act = heapq.heappop(self._due)
            self.now = max(self.now, at)
            act()
            done += 1
        if done < most:
            self.now = max(self.now, until)
        return done
