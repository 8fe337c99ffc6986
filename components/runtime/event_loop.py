"""One thread of events: what other threads saw, and what is due, one after the other.

Handlers of the IPC client, the worker's reader and the uploads post here and return at once; so nothing in
the session needs a lock, and nothing is published on an SDK's callback thread.
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
        """Never make the call."""
        self._call = None


class EventLoop:
    """Runs posted calls in order, and timers when they are due. ``clock`` gives seconds, monotonic."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        # A SimpleQueue's put may be interrupted by a signal handler that puts as well; a Queue's would hang.
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._timers = sched.scheduler(clock, time.sleep)
        self._exit_code: int | None = None

    def post(self, call: Call) -> None:
        """Have ``call`` made soon; from any thread, and from a signal handler."""
        self._calls.put(call)

    def call_later(self, seconds: float, call: Call) -> Timer:
        """Have ``call`` made ``seconds`` from now; from the loop's own thread."""
        timer = Timer(call)
        self._timers.enter(max(0.0, seconds), 0, timer.run)
        return timer

    def stop(self, exit_code: int) -> None:
        """End :meth:`run`, which returns the first exit code that was given."""
        if self._exit_code is None:
            self._exit_code = exit_code

    def run_due(self) -> float | None:
        """Make every call that is due; return the seconds until the next timer, None if there is none."""
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
