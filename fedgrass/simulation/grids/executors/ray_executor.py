"""Runs the simulations of a grid on a Ray cluster, or on a Ray that is started on this machine.

Ray is an extra of fedgrass: it is imported when a grid is run on it.
"""

import contextlib
import importlib
import os
import socket
import threading
from collections import deque
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

from fedgrass import __version__
from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.grids.cell_work import run_cell
from fedgrass.simulation.grids.executors.cell_executor import EndsInContext, Work, WorkCrashed, WorkerLost

_CONNECT_SECONDS = 10.0
_PROBE_SECONDS = 120.0  # for a first worker to start and import fedgrass
_PORT = 6379  # of a cluster's head
_MEGABYTE = 1024**2
# Names of Ray's errors after which the same work may succeed on another worker.
_LOST = (
    "WorkerCrashedError",
    "OutOfMemoryError",
    "NodeDiedError",
    "LocalRayletDiedError",
    "ObjectLostError",
    "TaskCancelledError",
    "OwnerDiedError",
)


class _Queued(NamedTuple):
    future: Future[bytes]
    work: bytes


class RayExecutor(EndsInContext):
    """Runs works as tasks of Ray.

    Args:
        address: of a cluster, such as ``10.0.0.5:6379`` or ``ray://10.0.0.5:10001``; empty: that of
            RAY_ADDRESS, otherwise Ray is started on this machine.
        workers: tasks at the same time, if Ray is started here.
        function: what runs a work, by default a simulation.
        memory_megabytes: reserved for each task; 0: none.

    Raises:
        SettingsError: Ray is not installed, does not answer, or its nodes have no such fedgrass.
    """

    def __init__(
        self, address: str, workers: int, function: Work = run_cell, *, memory_megabytes: int = 0
    ) -> None:
        self._ray = _import_ray()
        self._lock = threading.Lock()
        self._queue: deque[_Queued] = deque()
        self._running: dict[Future[bytes], Any] = {}  # with Ray's reference
        self._is_closed = False
        self._is_connected = self._connect(address or os.environ.get("RAY_ADDRESS", ""), workers)
        remote = self._ray.remote(function)
        memory = {"memory": memory_megabytes * _MEGABYTE} if memory_megabytes else {}
        self._remote = remote.options(num_cpus=1, max_retries=0, name="fedgrass simulation", **memory)

    def _connect(self, address: str, workers: int) -> bool:
        """Connect to Ray; return whether this executor has to disconnect."""
        is_new = not self._ray.is_initialized()
        if is_new:
            self._init(address, workers)
        cores = int(self._ray.cluster_resources().get("CPU", 1))
        # More than a cluster has room for: a cluster that can grow sees the demand.
        self._room = 2 * max(1, cores) if address else workers
        try:
            if address:
                self._check_nodes(address)
        except BaseException:
            if is_new:
                self._ray.shutdown()
            raise
        return is_new

    def _init(self, address: str, workers: int) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address:
            _check_reachable(address)
            options["address"] = address
        else:
            options |= {"address": "local", "num_cpus": workers, "include_dashboard": False}
        try:
            self._ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = f"at {address} " if address else ""
            message = f"Ray {where}cannot be used: {str(error).splitlines()[0]}"
            raise SettingsError(message) from error

    def _check_nodes(self, address: str) -> None:
        """Check that the nodes have this version of fedgrass, by a first task."""
        try:
            found = self._ray.get(
                self._ray.remote(_version).options(max_retries=0).remote(), timeout=_PROBE_SECONDS
            )
        except self._ray.exceptions.GetTimeoutError as error:
            message = (
                f"Ray at {address} has started no worker within {_PROBE_SECONDS:g} s: is the cluster full?"
            )
            raise SettingsError(message) from error
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            message = (
                f"the nodes of Ray at {address} cannot run fedgrass: {reason}; install fedgrass {__version__}"
                " with the extras local and device on them"
            )
            raise SettingsError(message) from error
        if found != __version__:
            message = (
                f"the nodes of Ray at {address} have fedgrass {found}, and this is {__version__}: install the"
                " same version"
            )
            raise SettingsError(message)

    def submit(self, work: bytes) -> Future[bytes]:
        """See ``CellExecutor``."""
        future: Future[bytes] = Future()
        with self._lock:
            if self._is_closed:
                message = "cannot schedule new futures after shutdown"
                raise RuntimeError(message)
            self._queue.append(_Queued(future, work))
        self._dispatch()
        return future

    def _dispatch(self) -> None:
        """Hand over works until the room is used up."""
        begun = []
        with self._lock:
            while self._queue and len(self._running) < self._room:
                future, work = self._queue.popleft()
                if future.set_running_or_notify_cancel():
                    reference = self._running[future] = self._remote.remote(work)
                    begun.append((future, reference))
        for future, reference in begun:
            reference.future().add_done_callback(lambda done, future=future: self._end(future, done))

    def _end(self, future: Future[bytes], done: Future[Any]) -> None:
        with self._lock:
            self._running.pop(future, None)
        error = done.exception()
        if error is None:
            future.set_result(bytes(done.result()))
        elif type(error).__name__ in _LOST:
            future.set_exception(WorkerLost(f"its worker of Ray was lost: {_first_line(error)}"))
        else:
            future.set_exception(WorkCrashed(str(error)))
        self._dispatch()

    def shutdown(self, *, wait: bool = True, cancel_futures: bool = False) -> None:
        """See ``CellExecutor``."""
        with self._lock:
            self._is_closed = True
            queued = list(self._queue)
        if cancel_futures:
            for each in queued:
                each.future.cancel()
        if wait:
            self._wait()
            if self._is_connected:
                self._is_connected = False
                self._ray.shutdown()

    def _wait(self) -> None:
        while True:
            with self._lock:
                futures = [
                    *self._running,
                    *(each.future for each in self._queue if not each.future.cancelled()),
                ]
            if not futures:
                return
            wait(futures)

    def abandon(self) -> None:
        """See ``CellExecutor``."""
        self.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            running = list(self._running.values())
        for reference in running:
            with contextlib.suppress(Exception):  # it has ended meanwhile
                self._ray.cancel(reference, force=True)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _version() -> str:
    """Return the version of fedgrass on a node."""
    from fedgrass import __version__ as found  # noqa: PLC0415 - of the node on which it runs

    return found


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send them to its makers
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        message = "--executor ray needs Ray, which is not installed here: pip install 'fedgrass[ray]'"
        raise SettingsError(message) from error


def _check_reachable(address: str) -> None:
    """Check that a process listens at the address of a cluster: Ray itself tries for minutes."""
    place = address.removeprefix("ray://")
    if place == "auto":
        return
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host or place, int(port) if host else _PORT), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = (
            f"Ray at {address} does not answer: {reason}; [ray] address and RAY_ADDRESS take HOST:PORT of the"
            " head node (`ray start --head` prints it), or ray://HOST:10001"
        )
        raise SettingsError(message) from error
