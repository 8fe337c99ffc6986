"""An executor of a grid in threads: fast enough for unit tests, and its works can be functions of a test."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

from fedgrass.simulation.grids.executors.cell_executor import EndsInContext, WorkCrashed, WorkerLost

LOST = "LOST"  # a work that raises an error with this text has lost its worker


class ThreadExecutor(EndsInContext):
    """Keeps the contract of ``CellExecutor``; a work that was abandoned runs on unseen."""

    def __init__(self, workers: int, function: Callable[[bytes], bytes]) -> None:
        self._function = function
        self._works: queue.SimpleQueue[tuple[Future[bytes], bytes]] = queue.SimpleQueue()
        self._futures: list[Future[bytes]] = []
        self._lock = threading.Lock()
        self._is_closed = False
        for _ in range(workers):
            threading.Thread(target=self._serve, daemon=True).start()

    def submit(self, work: bytes) -> Future[bytes]:
        if self._is_closed:
            message = "cannot schedule new futures after shutdown"
            raise RuntimeError(message)
        future: Future[bytes] = Future()
        self._futures.append(future)
        self._works.put((future, work))
        return future

    def _serve(self) -> None:
        while True:
            future, work = self._works.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result, error = self._function(work), None
            except Exception as found:  # noqa: BLE001 - the result of the work
                result, error = (
                    b"",
                    WorkerLost("its thread") if str(found) == LOST else WorkCrashed(str(found)),
                )
            with self._lock:
                if future.done():
                    continue  # abandoned meanwhile
                if error:
                    future.set_exception(error)
                else:
                    future.set_result(result)

    def shutdown(self, *, wait: bool = True, cancel_futures: bool = False) -> None:
        self._is_closed = True
        if cancel_futures:
            for future in self._futures:
                future.cancel()
        if wait:
            wait_for(self._futures)

    def abandon(self) -> None:
        self.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            running = [future for future in self._futures if not future.done()]
            for future in running:
                future.set_exception(WorkerLost("the grid was stopped"))


def wait_for(futures: list[Future[bytes]]) -> None:
    """Wait for futures, also for those that are cancelled before they begin."""
    wait([future for future in futures if not future.cancelled()])
