"""The processes that a benchmark starts: their figures, their use of the machine, and their end."""

import ctypes
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import psutil

_SET_CHILD_SUBREAPER, _GET_CHILD_SUBREAPER = 36, 37  # of prctl(2)
_STOP_SECONDS = 5.0
Trees = Mapping[str, Callable[[], Iterable[psutil.Process]]]  # roots of the trees that belong to each name


def figures_of(
    command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
) -> dict[str, float]:
    """Run a measurement in a separate process; return the figures in the last line of its output.

    Args:
        command: the program and its arguments.
        environment: variables in addition to those of this process.
        folder: the working directory; that of this process if None.

    Raises:
        CalledProcessError: the program failed.
    """
    completed = subprocess.run(
        command,
        env={**os.environ, **environment},
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=900,
    )
    figures: dict[str, float] = json.loads(completed.stdout.splitlines()[-1])
    return figures


def running(module: str) -> list[psutil.Process]:
    """Return the descendants of this process that run ``python -m module``, with any options."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[1:3] == ["-m", module]:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def with_descendants(roots: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return processes and all their descendants; those that have ended are left out."""
    found: dict[psutil.Process, None] = {}
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            found.update(dict.fromkeys([root, *root.children(recursive=True)]))
    return list(found)


def cpu_seconds(roots: Iterable[psutil.Process]) -> float:
    """Return the CPU seconds of process trees, including processes that have ended below a root."""
    total = 0.0
    for process in with_descendants(roots):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def resident_megabytes(roots: Iterable[psutil.Process]) -> float:
    """Return the resident memory of process trees."""
    total = 0
    for process in with_descendants(roots):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 1e6


class MemoryWatch:
    """Samples the resident memory of process trees on a thread, until it is left; a context manager.

    Args:
        trees: called for each sample.
        seconds: between samples.
    """

    def __init__(self, trees: Trees, seconds: float) -> None:
        self._trees = trees
        self._seconds = seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)
        self.peaks = dict.fromkeys(trees, 0.0)  # MB of the largest sample, by name
        self.cpu_seconds = 0.0  # that the samples took

    def __enter__(self) -> Self:
        """Begin to sample."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the samples."""
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            for name, roots in self._trees.items():
                self.peaks[name] = max(self.peaks[name], resident_megabytes(roots()))
            self.cpu_seconds = time.thread_time()
            if self._end.wait(self._seconds):
                return


@contextmanager
def ended_descendants(patience: float = _STOP_SECONDS) -> Iterator[None]:
    """End all processes that were started within, on exit: also those whose parent has ended before.

    Args:
        patience: seconds for them to end by themselves, before they are killed.
    """
    prctl, former = ctypes.CDLL(None, use_errno=True).prctl, ctypes.c_int()
    prctl(_GET_CHILD_SUBREAPER, ctypes.byref(former), 0, 0, 0)
    # Linux gives this process the orphans among its descendants instead of process 1.
    prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    this = psutil.Process()
    before = set(this.children(recursive=True))
    try:
        yield
    finally:
        for stop in (psutil.Process.terminate, psutil.Process.kill):
            left = [process for process in this.children(recursive=True) if process not in before]
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    stop(process)
            psutil.wait_procs(left, timeout=patience)
        prctl(_SET_CHILD_SUBREAPER, former.value, 0, 0, 0)
