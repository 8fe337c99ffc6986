"""The event loop of a component: one thread that runs posted calls in order, and timers when they are due.

Handlers of the IPC client, the worker's reader and the uploads only post here and return, so the session
needs no lock, and nothing is published on a callback thread of an SDK.
"""

import queue
import sched
import time
from collections.abc import Callable

Call = Callable[[], None]
Clock = Callable[[], float]


class Timer:
    """A call that is due later; it can be cancelled until it has run."""

    def __init__(self, call: Call) -> None:
        self._call: Call | None = call

    def run(self) -> None:
        """Make the call, unless it was cancelled or made before."""
        call, self._call = self._call, None
        if call:
            call()

    def cancel(self) -> None:
        """Drop the call, if it was not made yet."""
        self._call = None


class EventLoop:
    """Runs posted calls in order, and timers when they are due.

    Args:
        clock: returns seconds of a monotonic clock.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        # SimpleQueue.put is reentrant: a signal handler may post while the same thread posts. Queue.put would
        # deadlock.
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._timers = sched.scheduler(clock, time.sleep)
        self._exit_code: int | None = None

    def post(self, call: Call) -> None:
        """Schedule ``call`` for as soon as possible; from any thread or signal handler."""
        self._calls.put(call)

    def call_later(self, seconds: float, call: Call) -> Timer:
        """Schedule ``call`` for ``seconds`` from now; only from the loop's own thread."""
        timer = Timer(call)
        self._timers.enter(max(0.0, seconds), 0, timer.run)
        return timer

    def stop(self, exit_code: int) -> None:
        """End :meth:`run`, which returns the first exit code given here."""
        if self._exit_code is None:
            self._exit_code = exit_code

    def run_due(self) -> float | None:
        """Make every call that is due; return the seconds until the next timer, or None if there is none."""
        while self._exit_code is None:
            try:
                self._calls.get_nowait()()
            except queue.Empty:
                break
        return None if self._exit_code is not None else self._timers.run(blocking=False)

    def run(self) -> int:
        """Make calls until :meth:`stop`; return its exit code."""
        while self._exit_code is None:
            wait = self.run_due()
            if self._exit_code is not None:
                break
            try:
                call = self._calls.get(timeout=wait)
            except queue.Empty:
                continue  # a timer is due
            call()
        return self._exit_code
