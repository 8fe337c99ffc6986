"""The deadline of an assignment, and the moment shortly before it at which a training has to end."""

from collections.abc import Callable

from components.runtime.event_loop import Call, EventLoop, Timer

_SHARE = 0.1  # of the whole time is reserved for everything after the training
_LONGEST_SHARE = 60.0  # seconds, the upper bound of that share
_UPLOADS = 2.0  # times the duration of the previous upload: links get slower
_MOST = 0.5  # of the whole time: at least half of it is for training


def margin_before(seconds: float, upload_seconds: float) -> float:
    """Return how many seconds before the deadline a training has to end for its update to arrive in time.

    Args:
        seconds: from now to the deadline.
        upload_seconds: duration of the previous upload of such an update; 0 if unknown.
    """
    return min(seconds * _MOST, min(seconds * _SHARE, _LONGEST_SHARE) + _UPLOADS * upload_seconds)


class Deadline:
    """Calls ``closing_in`` a margin before the deadline and ``overdue`` at it, each once.

    Args:
        loop: event loop whose clock counts, and in which both are called.
        seconds: from now to the deadline.
        margin: returns the margin in seconds, given the seconds left.
        closing_in: None if the assignment cannot be ended early.
        overdue: ends the assignment.
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
        """Replace the deadline if ``seconds`` from now is earlier."""
        if seconds < self.seconds_left:
            self._set(seconds)

    def cancel(self) -> None:
        """Cancel both calls."""
        for timer in self._timers:
            timer.cancel()

    def _set(self, seconds: float) -> None:
        self.cancel()
        self._at = self._loop.clock() + seconds
        self._timers = [self._loop.call_later(seconds, self._overdue)]
        if self._closing_in:
            early = seconds - self._margin(seconds)
            self._timers.append(self._loop.call_later(early, self._closing_in))
