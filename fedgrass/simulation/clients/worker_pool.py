"""A pool of worker processes in which the death of a worker is the failure of one job at most.

Each worker is a ``ProcessPoolExecutor`` of its own with a single process: if that process is killed, for
example because memory ran out, it is known which job it was doing. The job is repeated once in a new worker.
"""

import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

T = TypeVar("T")
_TRIES = 2
_JOIN_SECONDS = 5.0


class WorkerDied(Exception):
    """A job ended its worker process, twice."""


class _Worker:
    """One worker process; a new one after its death."""

    def __init__(self, initializer: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._initializer = initializer
        self._arguments = arguments
        self._executor: ProcessPoolExecutor | None = None
        self.exit_code: int | None = None  # of the latest process that died

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function in the process. Raises BrokenProcessPool if the process dies."""
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                1,
                multiprocessing.get_context("spawn"),
                initializer=self._initializer,
                initargs=self._arguments,
            )
        processes: list[BaseProcess] = []
        try:
            future = self._executor.submit(function, *arguments)
            processes = list(self._processes())
            return future.result()
        except BrokenProcessPool:
            self._executor.shutdown()
            self.exit_code = next((process.exitcode for process in processes), None)
            self._executor = None
            raise

    def _processes(self) -> Iterable[BaseProcess]:
        executor = self._executor
        return (executor._processes or {}).values() if executor else ()  # noqa: SLF001 - public from 3.14

    def how_it_died(self) -> str:
        """Return how the latest process ended, as a clause."""
        if self.exit_code == -signal.SIGKILL:
            return "was killed (SIGKILL), probably by the system for its use of memory"
        if self.exit_code is not None and self.exit_code < 0:
            return f"was ended by {signal.Signals(-self.exit_code).name}"
        return f"ended with exit code {self.exit_code}"

    def end(self) -> None:
        """End the process without waiting for what it does."""
        if (executor := self._executor) is None:
            return
        processes = list(self._processes())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_JOIN_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()


class WorkerPool:
    """Runs functions in worker processes; the jobs begin in the order in which they are submitted.

    Args:
        workers: how many processes.
        initializer: called in each process before its first job.
        arguments: of ``initializer``.
    """

    def __init__(
        self, workers: int, initializer: Callable[..., None], arguments: tuple[Any, ...] = ()
    ) -> None:
        self._workers = [_Worker(initializer, arguments) for _ in range(workers)]
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        # A Ctrl-C is for this process, not for its workers: these inherit the signal mask of the threads. The
        # start of multiprocessing's resource tracker unblocks SIGINT in the thread that causes it: not later.
        resource_tracker.ensure_running()
        self._threads = ThreadPoolExecutor(workers, "simulation-worker", initializer=_block_interrupts)
        self._closed = threading.Event()

    def submit(self, function: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Run a function of a module in one of the processes.

        Returns:
            A future of its result. Its exception is ``WorkerDied`` if the process died twice in this job, or
            if the pool is closed.
        """
        try:
            return self._threads.submit(self._run, function, *arguments)
        except RuntimeError:
            if not self._closed.is_set():
                raise
            message = "it was ended with the simulation"  # a job that died with the pool is not repeated
            ended: Future[T] = Future()
            ended.set_exception(WorkerDied(message))
            return ended

    def close(self) -> None:
        """End the processes, also in the middle of a job. May be called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(wait=True)
        for worker in self._workers:  # one that a thread has started meanwhile
            worker.end()

    def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        worker = self._free.get_nowait()  # there are as many threads as workers
        try:
            for _ in range(_TRIES):
                if self._closed.is_set():
                    break
                try:
                    return worker.run(function, *arguments)
                except BrokenProcessPool:
                    continue
        finally:
            self._free.put(worker)
        message = f"its worker process {worker.how_it_died()}, and so did the one after it"
        raise WorkerDied(message)


def _block_interrupts() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
