"""The deadline of a work in hand, and the moment shortly before it when a training has to come to its end."""

from collections.abc import Callable

from components.runtime.event_loop import Call, EventLoop, Timer

SHARE = 0.1  # of the whole time, that is left for what comes after the training
LONGEST_SHARE = 60.0  # seconds of it
UPLOADS = 2.0  # times what an upload took before: links get slower
MOST = 0.5  # of the whole time: at least half of it is trained


def margin_before(seconds: float, upload_seconds: float) -> float:
    """Return the seconds before the deadline at which a training has to end, so that its update arrives.

    Args:
        seconds: of the whole work, from now to the deadline.
        upload_seconds: that the last upload of such an update took, 0 if none is known.
    """
    return min(seconds * MOST, min(seconds * SHARE, LONGEST_SHARE) + UPLOADS * upload_seconds)


class Deadline:
    """Calls ``closing_in`` a margin before the deadline and ``overdue`` at it, each once.

    Args:
        loop: whose clock counts, and in which both are called.
        seconds: from now to the deadline.
        margin: takes the seconds that are left, and returns the margin.
        closing_in: None where nothing can be ended early.
        overdue: ends the work.
    """

    def __init__(
        self,
        loop: EventLoop,
        seconds: float,
        *,
        margin: Callable[[float], float],
        closing_in: Call | None,
        overdue: Call,
    ) -> None:
        self._loop = loop
        self._margin = margin
        self._closing_in = closing_in
        self._overdue = overdue
        self._timers: list[Timer] = []
        self._at = 0.0
        self._set(seconds)

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self._at - self._loop.clock())

    def bring_forward(self, seconds: float) -> None:
        """Take note of another deadline: it holds if it is the earlier one."""
        if seconds < self.seconds_left:
            self._set(seconds)

    def cancel(self) -> None:
        """Call nothing any more."""
        for timer in self._timers:
            timer.cancel()

    def _set(self, seconds: float) -> None:
        self.cancel()
        self._at = self._loop.clock() + seconds
        self._timers = [self._loop.call_later(seconds, self._overdue)]
        if self._closing_in:
            early = seconds - self._margin(seconds)
            self._timers.append(self._loop.call_later(early, self._closing_in))
