"""Runs the simulations of a grid in processes of this machine.

``concurrent.futures.ProcessPoolExecutor`` breaks as a whole when one of its processes is killed, and every
work that runs at that time fails with it. Here each process has a separate connection: the loss of one,
as when memory runs out, concerns its own work only.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from fedgrass.console.deferred import deferred
from fedgrass.simulation.grids.executors.cell_executor import EndsInContext, Work, WorkCrashed, WorkerLost

_CONTEXT = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
run_cell = deferred("fedgrass.simulation.grids.cell_work:run_cell")  # numpy and more, in the process only
_DONE, _CRASHED = b"d", b"c"  # first byte of an answer
_END_SECONDS = 5.0  # that a process has to end by itself
_LONGEST_ERROR = 2000  # characters
# Processes that are killed leave their semaphores to multiprocessing's resource tracker, which removes them,
# and warns. The tracker is a Python process that is started with the warning options of this one.
_QUIET_TRACKER = "ignore:resource_tracker:UserWarning"


class ProcessExecutor(EndsInContext):
    """Runs works in processes, each of them reused for the next work.

    Args:
        workers: how many processes; after one was killed by SIGKILL, as when memory runs out, one less.
        function: what runs a work, by default a simulation.
    """

    def __init__(self, workers: int, function: Work | None = None) -> None:
        self._function = function or run_cell
        self._threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="grid")
        self._room = threading.Semaphore(workers)
        self._lock = threading.Lock()
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []
        self._abandoned = False
        self.workers = workers
        if _QUIET_TRACKER not in sys.warnoptions:
            sys.warnoptions.append(_QUIET_TRACKER)

    def submit(self, work: bytes) -> Future[bytes]:
        """See ``CellExecutor``."""
        return self._threads.submit(self._run, work)

    def _run(self, work: bytes) -> bytes:
        self._room.acquire()
        child = self._child()
        try:
            result = child.run(work)
        except WorkerLost:
            with self._lock:
                self._children.discard(child)
                # Memory is what such a process lacked: its place stays empty.
                is_shrunk = not self._abandoned and child.is_killed and self.workers > 1
                self.workers -= is_shrunk
            if not is_shrunk:
                self._room.release()
            raise
        except BaseException:
            self._put_back(child)
            raise
        self._put_back(child)
        return result

    def _child(self) -> "_Child":
        with self._lock:
            if self._abandoned:
                message = "the grid was stopped"
                raise WorkerLost(message)
            child = self._idle.pop() if self._idle else _Child(self._function)
            self._children.add(child)
        return child

    def _put_back(self, child: "_Child") -> None:
        with self._lock:
            self._idle.append(child)
        self._room.release()

    def shutdown(self, *, wait: bool = True, cancel_futures: bool = False) -> None:
        """See ``CellExecutor``."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            self._end_children()
        else:  # at its exit Python waits for processes that still run
            threading.Thread(target=self.shutdown).start()

    def _end_children(self) -> None:
        with self._lock:
            children, self._children, self._idle = self._children, set(), []
        for child in children:
            child.end()

    def abandon(self) -> None:
        """See ``CellExecutor``."""
        with self._lock:
            self._abandoned = True
            children = set(self._children)
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.kill()


class _Child:
    """A process that runs one work at a time."""

    def __init__(self, function: Work) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        self._process: SpawnProcess = _CONTEXT.Process(target=_serve, args=(theirs, function), daemon=False)
        self._process.start()
        theirs.close()  # so that the end of the process ends the connection

    @property
    def is_killed(self) -> bool:
        """Whether SIGKILL ended it, as the kernel does when memory runs out."""
        return self._process.exitcode == -signal.SIGKILL

    def run(self, work: bytes) -> bytes:
        """Return the result of a work. Raises WorkerLost or WorkCrashed."""
        try:
            self._connection.send_bytes(work)
            answer = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            self._process.join(_END_SECONDS)
            self._kill_group()  # those that it started would continue without it
            raise WorkerLost(self._why()) from error
        if answer[:1] == _CRASHED:
            raise WorkCrashed(answer[1:].decode())
        return answer[1:]

    def _why(self) -> str:
        code = self._process.exitcode
        if self.is_killed:
            return "its process was killed (SIGKILL), as happens when memory runs out"
        if code is not None and code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"

    def end(self) -> None:
        """Let the process end, which waits for work."""
        self._connection.close()
        self._process.join(_END_SECONDS)
        if self._process.is_alive():
            self.kill()
        self._process.join()

    def kill(self) -> None:
        """End the process and those that it started, at once."""
        if self._process.is_alive():
            self._kill_group()
            self._process.kill()

    def _kill_group(self) -> None:
        """End all processes of the group that the process has made; there is none before it begins."""
        if self._process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _serve(works: Connection, function: Work) -> None:
    """Run works until the connection ends: the main function of a process."""
    os.setpgid(0, 0)  # Ctrl-C reaches the parent only; and all that this process starts ends with it
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(2, 1)  # what a task prints must not mix with the output of the command
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for work in _received(works):
        try:
            answer = _DONE + function(work)
        except Exception:  # noqa: BLE001 - whatever the work raises is its result
            answer = _CRASHED + traceback.format_exc()[-_LONGEST_ERROR:].encode()
        works.send_bytes(answer)


def _received(works: Connection) -> Iterator[bytes]:
    with contextlib.suppress(EOFError, OSError):
        while True:
            yield works.recv_bytes()


def _end_with_parent() -> None:
    """End this process and those that it started when the parent has ended, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)
