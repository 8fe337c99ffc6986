"""The calls from the simulation to its worker processes, and what they take and return.

Only the worker processes import torch, in ``start``.
"""

import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from components.trainer.worker.worker_protocol import TaskOptions
from fedgrass.simulation.clients.client_trainer import ClientUpdate, ClientWork
from fedgrass.simulation.fleets.device_conditions import DeviceConditions

if TYPE_CHECKING:  # it imports torch, which takes seconds and is for the worker processes only
    from fedgrass.simulation.clients.client_worker import ClientWorker

_worker: "ClientWorker"  # of this process, set by ``start``


class WorkerOptions(Struct, frozen=True, kw_only=True):
    """What a worker process is started with.

    Attributes:
        task: the name of the task.
        options: of the task for all devices.
        devices: among how many the data are split.
        folder: of the devices' files.
        most_bytes: of memory that the process may use before it drops tasks.
        vectorize: whether clients of one shape are trained together.
    """

    task: str
    options: TaskOptions
    devices: int
    folder: str
    most_bytes: int
    vectorize: bool


class JobResult(Struct, frozen=True):
    """The updates of a job in the order of its work, and what the user should know."""

    updates: Sequence[ClientUpdate]
    notes: Sequence[str] = ()


class Problem(Struct, frozen=True):
    """A mistake of the user, in one line."""

    text: str


def start(options: WorkerOptions) -> None:
    """Prepare this process; called once, before its first job."""
    global _worker  # noqa: PLW0603 - one per process, as the jobs are functions of this module
    threading.Thread(target=_end_with_parent, daemon=True, name="parent-watch").start()
    _write_output_to(Path(options.folder) / "workers" / f"{os.getpid()}.log")
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
    from fedgrass.simulation.clients.client_worker import ClientWorker, prepare_process  # noqa: PLC0415 - torch

    prepare_process()
    _worker = ClientWorker(options)


def perform(works: Sequence[ClientWork], objects: Mapping[str, bytes]) -> JobResult:
    """Perform the assignments of some devices.

    Args:
        works: the assignments.
        objects: all objects of the bucket that they read, by key.
    """
    return _worker.perform(works, objects)


def check(devices: Sequence[DeviceConditions]) -> list[str] | Problem:
    """Create the tasks of some devices; return what the user should know, or the mistake."""
    return _worker.check(devices)


def warm_up() -> None:
    """Do nothing: the process has been started."""


def count_examples(device: DeviceConditions) -> int | Problem:
    """Return the number of training examples of a device."""
    return _worker.count_examples(device)


def initial_model(device: DeviceConditions, seed: int) -> bytes | Problem:
    """Return the initial weights of a device's task as a safetensors file."""
    return _worker.initial_model(device, seed)


def evaluate(device: DeviceConditions, model: bytes) -> dict[str, float] | Problem:
    """Return the metrics of a global model by a device's task."""
    return _worker.evaluate(device, model)


def _write_output_to(path: Path) -> None:
    """Write what the user's code prints, and all log lines, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    os.close(file)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)


def _end_with_parent() -> None:
    """End this process when its parent has died, even if that was killed."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
