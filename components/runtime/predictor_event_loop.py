"""The predictor's event loop: posted calls, and calls that are due. A twin of event_loop.py."""

import queue
import sched
import time
from collections.abc import Callable

Call = Callable[[], None]


class Agenda:
    """Makes posted calls in order, and later ones when they are due, until it is told to stop."""

    def __init__(self) -> None:
        # A SimpleQueue's put may be interrupted by a signal handler that puts as well.
        self._posted: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._later = sched.scheduler(time.monotonic, time.sleep)
        self._exit_code: int | None = None

    def post(self, call: Call) -> None:
        """Have ``call`` made soon; from any thread, and from a signal handler."""
        self._posted.put(call)

    def later(self, seconds: float, call: Call) -> None:
        """Have ``call`` made ``seconds`` from now; from the main thread."""
        self._later.enter(seconds, 0, call)

    def stop(self, exit_code: int) -> None:
        """End :meth:`run`, which returns the first exit code that was given."""
        if self._exit_code is None:
            self._exit_code = exit_code

    def run(self) -> int:
        """Make calls until :meth:`stop`; return its exit code."""
        while self._exit_code is None:
            wait = self._later.run(blocking=False)
            if self._exit_code is not None:
                break
            try:
                call = self._posted.get(timeout=wait)
            except queue.Empty:
                continue  # something is due
            call()
        return self._exit_code
